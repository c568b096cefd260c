//! Text in columns, and text of others made safe for a terminal.

/// Rows below a heading, each column as wide as its widest cell. The last one is not padded.
pub(super) fn columns<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> String {
    let widths: [usize; N] = std::array::from_fn(|column| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([heading[column].len()]).max().unwrap_or(0)
    });
    let mut text = line(&heading, &widths);
    for row in rows {
        text += &line(row, &widths);
    }
    text
}

fn line<T: AsRef<str>>(cells: &[T], widths: &[usize]) -> String {
    let mut line = String::new();
    for (cell, width) in cells.iter().zip(widths) {
        line += &format!("{:<width$}  ", cell.as_ref());
    }
    line.trim_end().to_owned() + "\n"
}

/// On one line, without what a terminal would obey.
pub(super) fn plain(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    words
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// The first characters, with dots for the rest.
pub(super) fn shortened(text: &str, most: usize) -> String {
    let text = plain(text);
    if text.chars().count() <= most {
        return text;
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other() {
        let rows = [
            ["1".to_owned(), "ä long one".to_owned(), "x".to_owned()],
            ["12345".to_owned(), "b".to_owned(), String::new()],
        ];
        assert_eq!(
            columns(["id", "what", "error"], &rows),
            "id     what        error\n1      ä long one  x\n12345  b\n"
        );
    }

    #[test]
    fn what_others_wrote_stays_on_its_line_and_obeys_nobody() {
        assert_eq!(plain("a\n\tb\u{1b}[2Jc"), "a b [2Jc");
        assert_eq!(shortened("äbcdef", 4), "äbc…");
        assert_eq!(shortened("äbcd", 4), "äbcd");
    }
}
