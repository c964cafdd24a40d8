//! Columns that line up.
//!
//! Not for ipcs, whose widths are fixed by what programs expect of it.

use std::fmt::Write;

/// A column's head, and whether its values stand to the right.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    /// Its name.
    pub(crate) name: String,
    /// Numbers stand to the right.
    pub(crate) right: bool,
}

impl Head {
    /// A column whose values stand to the left.
    pub(crate) fn left(name: &str) -> Self {
        Head {
            name: name.to_owned(),
            right: false,
        }
    }

    /// A column whose values stand to the right.
    pub(crate) fn right(name: &str) -> Self {
        Head {
            name: name.to_owned(),
            right: true,
        }
    }
}

/// The table as text, one line a row, the heads above unless `bare`.
pub(crate) fn render(heads: &[Head], rows: &[Vec<String>], bare: bool) -> String {
    let widths: Vec<usize> = heads
        .iter()
        .enumerate()
        .map(|(column, head)| {
            let cells = rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count());
            cells
                .chain((!bare).then(|| head.name.chars().count()))
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut out = String::new();
    let names: Vec<String> = heads.iter().map(|head| head.name.clone()).collect();
    for row in (!bare).then_some(&names).into_iter().chain(rows) {
        let mut line = String::new();
        for ((cell, head), width) in row.iter().zip(heads).zip(&widths) {
            let space = if line.is_empty() { "" } else { " " };
            let _ = if head.right {
                write!(line, "{space}{cell:>width$}")
            } else {
                write!(line, "{space}{cell:<width$}")
            };
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let heads = [Head::left("NAME"), Head::right("N")];
        let rows = [
            vec!["a".to_owned(), "100".to_owned()],
            vec!["longer".to_owned(), "7".to_owned()],
        ];
        assert_eq!(
            render(&heads, &rows, false),
            "NAME     N\na      100\nlonger   7\n"
        );
    }
}
