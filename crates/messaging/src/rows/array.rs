//! PostgreSQL's text form of arrays, which may hold NULLs; the driver's own binding of arrays may not.

use std::fmt::Write as _;

use sea_orm::{ColumnType, Value};

/// The type of a column's elements, of those types that tables here have.
///
/// # Panics
/// For any other type: whoever adds a column of it adds it here.
pub(super) fn type_name(column: &ColumnType) -> &'static str {
    match column {
        ColumnType::Uuid => "uuid",
        ColumnType::Text | ColumnType::String(_) => "text",
        ColumnType::BigInteger => "bigint",
        ColumnType::Integer => "integer",
        ColumnType::Boolean => "boolean",
        ColumnType::Blob | ColumnType::VarBinary(_) | ColumnType::Binary(_) => "bytea",
        other => unimplemented!("no array of {other:?}"),
    }
}

/// The array of `values`: `{1,NULL,3}`.
pub(super) fn literal<'a>(values: impl IntoIterator<Item = &'a Value>) -> String {
    let mut values = values.into_iter().peekable();
    // Most are as long as the first.
    let longest = values.peek().map_or(0, |value| length(value));
    let mut text = String::with_capacity((values.size_hint().0 + 1) * (longest + 1));
    text.push('{');
    for (index, value) in values.enumerate() {
        if index > 0 {
            text.push(',');
        }
        element(&mut text, value);
    }
    text.push('}');
    text
}

/// About how long an element becomes.
fn length(value: &Value) -> usize {
    /// Of a UUID, which is longer than NULL and than most numbers.
    const SHORT: usize = 36;
    match value {
        Value::String(Some(value)) => value.len() + 2,
        Value::Bytes(Some(value)) => value.len() * 2 + 6,
        _ => SHORT,
    }
}

fn element(text: &mut String, value: &Value) {
    // Writing to a string does not fail.
    let _ = match value {
        Value::Uuid(Some(value)) => write!(text, "{value}"),
        Value::String(Some(value)) => {
            quote(text, value);
            Ok(())
        }
        Value::BigInt(Some(value)) => write!(text, "{value}"),
        Value::Int(Some(value)) => write!(text, "{value}"),
        Value::Bool(Some(value)) => write!(text, "{value}"),
        Value::Bytes(Some(value)) => {
            text.push_str("\"\\\\x");
            hex(text, value);
            text.push('"');
            Ok(())
        }
        Value::Uuid(None)
        | Value::String(None)
        | Value::BigInt(None)
        | Value::Int(None)
        | Value::Bool(None)
        | Value::Bytes(None) => write!(text, "NULL"),
        other => unimplemented!("no array of {other:?}"),
    };
}

fn quote(text: &mut String, value: &str) {
    text.push('"');
    for character in value.chars() {
        if matches!(character, '"' | '\\') {
            text.push('\\');
        }
        text.push(character);
    }
    text.push('"');
}

fn hex(text: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    text.reserve(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_written_as_postgresql_reads_them() {
        let values = [
            Value::from("plain"),
            Value::from("NULL"),
            Value::from(""),
            Value::from(r#"{"a\b",c}"#),
            Value::String(None),
        ];
        assert_eq!(
            literal(&values),
            r#"{"plain","NULL","","{\"a\\b\",c}",NULL}"#
        );
        assert_eq!(literal(&[Value::from(vec![0_u8, 255])]), r#"{"\\x00ff"}"#);
        let numbers = [Value::from(-1_i64), Value::BigInt(None)];
        assert_eq!(literal(&numbers), "{-1,NULL}");
        assert_eq!(literal(&[]), "{}");
    }
}
