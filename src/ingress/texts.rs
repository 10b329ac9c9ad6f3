//! Texts in what was published, as loosely as the programs that publish write them.

use serde_json::Value;

use super::Refused;

/// A text, or a number as text: a room that is a number in JavaScript or PHP.
///
/// # Errors
///
/// [`Refused::Unreadable`] for anything else.
pub(crate) fn text(value: &Value) -> Result<String, Refused> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        _ => Err(Refused::Unreadable),
    }
}

/// Several texts: a list, one alone, or none where nothing is. PHP writes a list with gaps as a map.
///
/// # Errors
///
/// [`Refused::Unreadable`] for anything else.
pub(crate) fn texts(value: Option<&Value>) -> Result<Vec<String>, Refused> {
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(all)) => all.iter().map(text).collect(),
        Some(Value::Object(all)) => all.values().map(text).collect(),
        Some(one) => Ok(vec![text(one)?]),
    }
}

/// The path of a namespace, which is written with or without its slash; the main one where nothing is.
///
/// # Errors
///
/// [`Refused::Unreadable`] if it is no text.
pub(crate) fn namespace(value: Option<&Value>) -> Result<String, Refused> {
    match value {
        None | Some(Value::Null) => Ok("/".into()),
        Some(Value::String(path)) if path.starts_with('/') => Ok(path.clone()),
        Some(Value::String(path)) => Ok(format!("/{path}")),
        Some(_) => Err(Refused::Unreadable),
    }
}
