//! Turns pieces into the two texts of a Matrix message: plain, and HTML in which nothing of a task is markup. Pure.
//!
//! In: pieces. Out: body and formatted body. Markdown of the worker is rendered without its HTML, its images, links that
//! ping (`matrix.to`) and links to anything but http and https.

use chargehand_actors::ports::Piece;
use pulldown_cmark::{CowStr, Event, Options, Parser, Tag, TagEnd, html};

/// Plain text and HTML.
pub(super) fn render(pieces: &[Piece]) -> (String, String) {
    let mut plain = String::new();
    let mut rich = String::new();
    for piece in pieces {
        match piece {
            Piece::Text(text) => {
                plain.push_str(text);
                rich.push_str(&escape(text).replace('\n', "<br>"));
            }
            Piece::Bold(text) => {
                plain.push_str(text);
                rich.push_str(&format!("<strong>{}</strong>", escape(text)));
            }
            Piece::Code(text) => {
                plain.push_str(text);
                rich.push_str(&format!("<code>{}</code>", escape(text)));
            }
            Piece::Pre(text) => {
                fresh_line(&mut plain);
                plain.push_str(text);
                plain.push('\n');
                rich.push_str(&format!("<pre><code>{}</code></pre>", escape(text)));
            }
            Piece::Markdown(text) => {
                fresh_line(&mut plain);
                plain.push_str(text);
                plain.push('\n');
                rich.push_str(&markdown(text));
            }
            Piece::Break => {
                plain.push('\n');
                rich.push_str("<br>");
            }
        }
    }
    (plain.trim_end().to_owned(), rich)
}

fn fresh_line(text: &mut String) {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
}

fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}

fn markdown(text: &str) -> String {
    let options = Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH;
    // Whether each open link is shown as one.
    let mut links: Vec<bool> = Vec::new();
    let events = Parser::new_ext(text, options).filter_map(|event| match event {
        Event::Html(html) | Event::InlineHtml(html) => Some(Event::Text(html)),
        Event::Start(Tag::HtmlBlock) | Event::End(TagEnd::HtmlBlock) => None,
        Event::Start(Tag::Link { ref dest_url, .. }) => {
            let shown = harmless(dest_url);
            links.push(shown);
            shown.then_some(event)
        }
        Event::End(TagEnd::Link) => links.pop().unwrap_or(false).then_some(event),
        Event::Start(Tag::Image { dest_url, .. }) => {
            Some(Event::Text(CowStr::from(format!("[image {dest_url}] "))))
        }
        Event::End(TagEnd::Image) => None,
        other => Some(other),
    });
    let mut out = String::new();
    html::push_html(&mut out, events);
    out
}

/// A link to a web page that is no Matrix id: such a link is shown as a person, and may call them.
fn harmless(url: &str) -> bool {
    let lower = url.to_ascii_lowercase();
    let web = lower.starts_with("https://") || lower.starts_with("http://");
    web && !lower.contains("matrix.to")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rich(piece: Piece) -> String {
        render(&[piece]).1
    }

    #[test]
    fn d13_markup_of_a_task_is_shown_and_not_obeyed() {
        let evil = "<script>alert(1)</script><img src=x onerror='x'>&amp;\"";
        let shown = "&lt;script&gt;alert(1)&lt;/script&gt;&lt;img src=x onerror=&#39;x&#39;&gt;&amp;amp;&quot;";
        for (piece, expected) in [
            (Piece::Text(evil.to_owned()), shown.to_owned()),
            (
                Piece::Bold(evil.to_owned()),
                format!("<strong>{shown}</strong>"),
            ),
            (
                Piece::Code(evil.to_owned()),
                format!("<code>{shown}</code>"),
            ),
            (
                Piece::Pre(evil.to_owned()),
                format!("<pre><code>{shown}</code></pre>"),
            ),
        ] {
            assert_eq!(rich(piece), expected);
        }
        let html = rich(Piece::Markdown(format!(
            "a {evil} b\n\n<div onclick=x>\nc\n</div>\n"
        )));
        for bad in ["<script", "<img", "<div"] {
            assert!(!html.contains(bad), "{html}");
        }
    }

    #[test]
    fn d13_links_and_images_of_a_task_call_nobody() {
        for text in [
            "[you](https://matrix.to/#/@anna:x)",
            "[x](javascript:alert(1))",
            "[x](matrix:u/anna:x)",
            "![x](https://evil.example/pixel.png)",
            "[x][1]\n\n[1]: https://MATRIX.to/#/@anna:x\n",
            "<https://matrix.to/#/@anna:x>",
        ] {
            let html = rich(Piece::Markdown(text.to_owned()));
            assert!(!html.contains("<a ") && !html.contains("<img"), "{html}");
        }
    }

    #[test]
    fn markdown_is_rendered() {
        let html = rich(Piece::Markdown(
            "# Done\n\n* **one**\n* `two`\n\n```rust\nfn main() {}\n```\n[docs](https://example.org/a)".to_owned(),
        ));
        for part in [
            "<h1>Done</h1>",
            "<strong>one</strong>",
            "<code>two</code>",
            "<pre><code class=\"language-rust\">fn main() {}",
            "<a href=\"https://example.org/a\">docs</a>",
        ] {
            assert!(html.contains(part), "{part} in {html}");
        }
    }

    #[test]
    fn plain_text_has_the_same_lines() {
        let (plain, rich) = render(&[
            Piece::Bold("a".to_owned()),
            Piece::Break,
            Piece::Text("b\nc".to_owned()),
            Piece::Pre("d".to_owned()),
        ]);
        assert_eq!(plain, "a\nb\nc\nd");
        assert_eq!(
            rich,
            "<strong>a</strong><br>b<br>c<pre><code>d</code></pre>"
        );
    }
}
