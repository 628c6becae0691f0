//! Writes events: what a post is as JSON, with the part for people and the part for machines. Pure.
//!
//! In: posts. Out: content of `m.room.message` events. Who is called stands in `m.mentions` alone, in every event, so that
//! a name in a task's text calls nobody.

use chargehand_actors::ports::{Place, Post};
use serde_json::{Map, Value, json};

use super::render::render;

/// Bytes of an event's content: a homeserver takes 65,536 of a whole event, and encryption makes it a third longer.
const MOST: usize = 40_000;
/// Bytes of the text of a message that is too long with its formatting; halved until it fits.
const CUT: usize = 16_000;
/// The key of what machines read.
pub(super) const ABOUT: &str = "io.letta.task";

/// The content of a post: without formatting, and cut at the end, where it would not fit into an event.
pub(super) fn message(post: &Post) -> Value {
    let (body, html) = render(&post.body);
    let whole = content(post, &body, Some(&html));
    if size(&whole) <= MOST {
        return whole;
    }
    let mut limit = CUT;
    loop {
        let end = body.floor_char_boundary(limit);
        let shown = if end < body.len() {
            format!("{}\n… {} bytes more", &body[..end], body.len() - end)
        } else {
            body.clone()
        };
        let plain = content(post, &shown, None);
        if size(&plain) <= MOST || limit < 100 {
            return plain;
        }
        limit /= 2;
    }
}

fn size(content: &Value) -> usize {
    content.to_string().len()
}

fn content(post: &Post, body: &str, html: Option<&str>) -> Value {
    let mut base = json!({
        "msgtype": if post.loud { "m.text" } else { "m.notice" },
        "body": body,
        "m.mentions": mentions(&post.call),
        ABOUT: post.about,
    });
    if let Some(html) = html {
        base["format"] = json!("org.matrix.custom.html");
        base["formatted_body"] = json!(html);
    }
    let Value::Object(mut content) = base else {
        return base;
    };
    match &post.place {
        Place::Room => {}
        Place::Thread(root) => {
            content.insert("m.relates_to".to_owned(), thread(root));
        }
        Place::Edit(event) => {
            let new = Value::Object(content.clone());
            // Clients that know no edits show this; it says everything again, without formatting.
            content.remove("formatted_body");
            content.remove("format");
            content.insert("body".to_owned(), json!(format!("* {body}")));
            content.insert("m.new_content".to_owned(), new);
            content.insert(
                "m.relates_to".to_owned(),
                json!({"rel_type": "m.replace", "event_id": event}),
            );
        }
    }
    Value::Object(content)
}

/// The content of a file that is at `source` (`url`, or `file` where it is encrypted).
pub(super) fn file(
    name: &str,
    size: usize,
    root: &str,
    source: (&str, Value),
    about: &Map<String, Value>,
) -> Value {
    let mut content = json!({
        "msgtype": "m.file",
        "body": name,
        "filename": name,
        "info": {"mimetype": "text/plain", "size": size},
        "m.mentions": {},
        ABOUT: about,
    });
    content[source.0] = source.1;
    if !root.is_empty() {
        content["m.relates_to"] = thread(root);
    }
    content
}

fn thread(root: &str) -> Value {
    json!({
        "rel_type": "m.thread",
        "event_id": root,
        "is_falling_back": true,
        "m.in_reply_to": {"event_id": root},
    })
}

fn mentions(call: &[String]) -> Value {
    if call.is_empty() {
        json!({})
    } else {
        json!({ "user_ids": call })
    }
}

#[cfg(test)]
mod tests {
    use chargehand_actors::ports::Piece;

    use super::*;

    fn post(place: Place, call: &[&str]) -> Value {
        message(&Post {
            key: "k".to_owned(),
            must: false,
            call: call.iter().map(|&id| id.to_owned()).collect(),
            loud: !call.is_empty(),
            place,
            body: vec![Piece::Text("@room @anna:x <b>".to_owned())],
            about: Map::new(),
        })
    }

    #[test]
    fn d13_a_name_in_a_text_calls_nobody() {
        for place in [
            Place::Room,
            Place::Thread("$r".to_owned()),
            Place::Edit("$e".to_owned()),
        ] {
            let content = post(place, &[]);
            assert_eq!(content["m.mentions"], json!({}));
            assert_eq!(content["msgtype"], "m.notice");
            if let Some(new) = content.get("m.new_content") {
                assert_eq!(new["m.mentions"], json!({}));
            }
        }
        let called = post(Place::Room, &["@anna:x"]);
        assert_eq!(called["m.mentions"], json!({"user_ids": ["@anna:x"]}));
        assert_eq!(called["msgtype"], "m.text");
    }

    #[test]
    fn what_would_not_fit_into_an_event_is_plain_and_cut() {
        let markdown = Piece::Markdown(format!("{} deep", "> ".repeat(4_000)));
        let control = Piece::Text("\u{1}".repeat(30_000));
        for piece in [markdown, control] {
            for place in [Place::Room, Place::Edit("$e".to_owned())] {
                let content = message(&Post {
                    key: "k".to_owned(),
                    must: false,
                    call: Vec::new(),
                    loud: false,
                    place,
                    body: vec![Piece::Text("begins".to_owned()), piece.clone()],
                    about: Map::new(),
                });
                assert!(size(&content) <= MOST, "{} bytes", size(&content));
                assert!(content.get("formatted_body").is_none());
                assert!(
                    content["body"]
                        .as_str()
                        .unwrap_or_default()
                        .contains("begins")
                );
            }
        }
        let small = post(Place::Room, &[]);
        assert!(small.get("formatted_body").is_some());
    }

    #[test]
    fn an_edit_carries_what_machines_read_twice() {
        let content = post(Place::Edit("$e".to_owned()), &[]);
        assert_eq!(content["m.relates_to"]["rel_type"], "m.replace");
        assert!(content.get(ABOUT).is_some() && content["m.new_content"].get(ABOUT).is_some());
        assert_eq!(
            content["m.new_content"]["formatted_body"],
            "@room @anna:x &lt;b&gt;"
        );
    }
}
