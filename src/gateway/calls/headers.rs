//! Which headers of a client's handshake a backend is told, and what of them it is not.

use http::{
    HeaderMap, HeaderName,
    header::{AUTHORIZATION, COOKIE},
};
use serde_json::{Map, Value};

/// The headers with these names, by their names in lower case; several values of one as a list in one text. `verified` are the names
/// of the credentials that Switchboard has looked at itself: the bearer's token and these cookies are left out.
pub(super) fn told(
    headers: &HeaderMap,
    names: &[String],
    verified: Option<&[&str]>,
) -> Map<String, Value> {
    let names = names
        .iter()
        .filter_map(|name| HeaderName::try_from(name).ok());
    let told = names.filter_map(|name| {
        let all = headers.get_all(&name).iter();
        let texts = all.map(|value| String::from_utf8_lossy(value.as_bytes()));
        let value = if name == COOKIE {
            let hidden = verified.unwrap_or_default();
            let is_told = |cookie: &&str| {
                let named = cookie.split('=').next().unwrap_or_default().trim();
                !cookie.is_empty() && !hidden.contains(&named)
            };
            let all: Vec<_> = texts.collect();
            let cookies = all.iter().flat_map(|text| text.split(';')).map(str::trim);
            Vec::from_iter(cookies.filter(is_told)).join("; ")
        } else {
            let is_told = |text: &str| {
                let scheme = text.split(' ').next().unwrap_or_default();
                name != AUTHORIZATION
                    || verified.is_none()
                    || !scheme.eq_ignore_ascii_case("bearer")
            };
            Vec::from_iter(texts.filter(|text| is_told(text))).join(", ")
        };
        (!value.is_empty()).then(|| (name.as_str().to_owned(), value.into()))
    });
    told.collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::HeaderValue;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_opens_switchboard_is_left_out() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("cookie", "a=1; connect.sid=hush; b=2"),
            ("cookie", "c=3"),
            ("authorization", "Bearer hush"),
            ("x-tenant", "one"),
            ("x-tenant", "two"),
            ("other", "hush"),
        ] {
            let name = HeaderName::from_static(name);
            headers.append(name, HeaderValue::from_static(value));
        }
        let names = ["Cookie", "Authorization", "X-Tenant", "Absent"].map(str::to_owned);
        let told = |verified| Value::Object(told(&headers, &names, verified));
        assert_eq!(
            told(Some(&["connect.sid"])),
            json!({"cookie": "a=1; b=2; c=3", "x-tenant": "one, two"})
        );
        assert_eq!(
            told(None),
            json!({
                "cookie": "a=1; connect.sid=hush; b=2; c=3",
                "authorization": "Bearer hush",
                "x-tenant": "one, two",
            })
        );
    }
}
