//! Plain tables: columns as wide as their widest cell, the last one as long as it likes.
//!
//! In: a heading and rows of cells with styles. Out: text, one row a line.

use std::fmt::Write;

use anstyle::Style;

use super::terminal::{BOLD, paint};

/// One cell: text of one line, already clean, and its style.
pub(crate) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// A cell in a style.
    pub(crate) fn styled(text: impl Into<String>, style: Style) -> Self {
        Self {
            text: text.into(),
            style,
        }
    }

    /// A cell without a style.
    pub(crate) fn plain(text: impl Into<String>) -> Self {
        Self::styled(text, Style::new())
    }
}

/// The table. Every row has as many cells as the heading.
pub(crate) fn render(heading: &[&str], rows: &[Vec<Cell>]) -> String {
    let widths: Vec<usize> = heading
        .iter()
        .enumerate()
        .map(|(column, title)| {
            rows.iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.text.chars().count())
                .chain([title.chars().count()])
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut out = String::new();
    let titles: Vec<Cell> = heading.iter().map(|t| Cell::styled(*t, BOLD)).collect();
    line(&mut out, &titles, &widths);
    for row in rows {
        line(&mut out, row, &widths);
    }
    out
}

fn line(out: &mut String, cells: &[Cell], widths: &[usize]) {
    for (index, (cell, width)) in cells.iter().zip(widths).enumerate() {
        let _ = write!(out, "{}", paint(cell.style, &cell.text));
        if index + 1 < cells.len() {
            let pad = width - cell.text.chars().count().min(*width) + 2;
            let _ = write!(out, "{:pad$}", "");
        }
    }
    out.push('\n');
}
