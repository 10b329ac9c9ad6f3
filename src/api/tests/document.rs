//! The OpenAPI document, and its page.

use serde_json::json;

use super::*;

#[tokio::test]
async fn the_page_loads_nothing_from_elsewhere() {
    let router = public(state().await);
    let get = |path: &str| request("GET", path, None).body(Body::empty()).unwrap();
    for (at, base) in [("/v1/docs", Some("docs/")), ("/v1/docs/", None)] {
        let page = ask(&router, get(at)).await;
        assert_eq!(page.status, 200, "{at}");
        assert_eq!(page.headers[header::CONTENT_TYPE], "text/html");
        let policy = page.headers[header::CONTENT_SECURITY_POLICY]
            .to_str()
            .unwrap();
        assert!(policy.starts_with("default-src 'self';"), "{policy}");
        assert!(!page.text.contains("//"), "{}", page.text);
        // What relative paths are relative to, before the first of them.
        let mut text = page.text.as_str();
        if let Some(base) = base {
            let tag = format!(r#"<base href="{base}">"#);
            let (before, after) = text.split_once(&tag).unwrap();
            assert!(!before.contains("src=") && !before.contains("href="));
            text = after;
        }
        assert!(!text.contains("<base"), "{text}");
        let mut loaded = 0;
        for attribute in ["src=\"", "href=\""] {
            for rest in text.split(attribute).skip(1) {
                let path = rest.split('"').next().unwrap().trim_start_matches("./");
                let path = format!("/v1/docs/{path}");
                let response = router.clone().oneshot(get(&path)).await.unwrap();
                assert_eq!(response.status(), 200, "{path}");
                loaded += 1;
            }
        }
        assert!(loaded >= 5, "{}", page.text);
    }
    let missing = ask(&router, get("/v1/docs/nothing.js")).await;
    assert_eq!(missing.code(), "not_found");

    let start = ask(&router, get("/v1/docs/swagger-initializer.js"))
        .await
        .text;
    assert!(start.contains(r#""url": "/v1/openapi.json""#), "{start}");
    assert!(start.contains(r#""validatorUrl": "none""#), "{start}");
    assert!(!start.contains("http"), "{start}");
}

#[tokio::test]
async fn the_document_is_served_and_complete() {
    for router in [public(state().await), internal(state().await)] {
        let get = request("GET", "/v1/openapi.json", None)
            .body(Body::empty())
            .unwrap();
        assert_eq!(ask(&router, get).await.json(), json!(document()));
    }
    let document = json!(document());
    assert_eq!(document["openapi"], "3.1.0");
    let mut references = Vec::new();
    collect_references(&document, &mut references);
    assert!(!references.is_empty());
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

fn collect_references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(reference) if name == "$ref" => found.push(reference.clone()),
                    value => collect_references(value, found),
                }
            }
        }
        Value::Array(items) => items
            .iter()
            .for_each(|item| collect_references(item, found)),
        _ => {}
    }
}

/// A change of this snapshot is a change of what callers see.
#[test]
fn the_document_is_as_it_was() {
    let mut document = document();
    document.info.version = "(the crate's)".into();
    insta::assert_json_snapshot!("openapi", document);
}
