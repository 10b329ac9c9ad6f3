//! What every request goes through: rights, routes, metrics, panics, the end of a body that is too large.

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// Method, path and scope of every operation of the document; no scope where no key is needed, and an empty one where any
/// will do.
fn operations() -> Vec<(String, String, Option<String>)> {
    let document = json!(document());
    let mut operations = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let scopes = operation["security"][0]["key"].as_array();
            let scope = scopes.map(|scopes| scopes.first().and_then(Value::as_str));
            operations.push((
                method.to_uppercase(),
                path.replace(['{', '}'], ""),
                scope.map(|scope| scope.unwrap_or_default().to_owned()),
            ));
        }
    }
    operations
}

#[tokio::test]
async fn every_call_needs_the_scope_that_its_document_names() {
    let router = public(state().await);
    let mut guarded = 0;
    for (method, path, scope) in operations() {
        let with = async |key| {
            let request = request(&method, &path, key).body(Body::empty()).unwrap();
            ask(&router, request).await
        };
        if path.starts_with("/api/") {
            // Their credentials are a cookie, and their router is another.
            assert_eq!(with(Some(KEY)).await.status, 404, "{method} {path}");
            continue;
        }
        let Some(scope) = scope else {
            assert_eq!(with(None).await.status, 200, "{method} {path}");
            continue;
        };
        guarded += 1;
        for wrong in [
            None,
            Some("every-scop"),
            Some("every-scopf"),
            Some("every-scope."),
        ] {
            let answer = with(wrong).await;
            assert_eq!(answer.status, 401, "{method} {path} {wrong:?}");
            assert_eq!(answer.headers[header::WWW_AUTHENTICATE], "Bearer");
            assert_eq!(answer.code(), "unauthorized");
        }
        for key in ["read", "send", "disconnect", "admin", KEY] {
            let may = scope.is_empty() || [&scope, "admin", KEY].contains(&key);
            if may && path == "/v1/tail" {
                // Its answer has no end: see tests/js/console.test.mjs.
                continue;
            }
            let answer = with(Some(key)).await;
            if may {
                assert!(
                    ![401, 403].contains(&answer.status.as_u16()),
                    "{method} {path} {key}"
                );
            } else {
                assert_eq!(answer.code(), "forbidden", "{method} {path} {key}");
                assert_eq!(answer.status, 403);
            }
        }
    }
    assert_eq!(guarded, 32);
}

#[tokio::test]
async fn the_key_is_checked_before_the_body_is_read() {
    let body = Body::from_stream(futures_util::stream::poll_fn(
        |_| -> std::task::Poll<Option<Result<String, std::io::Error>>> {
            panic!("the body was read")
        },
    ));
    let request = request("POST", "/v1/events", Some("read"))
        .body(body)
        .unwrap();
    assert_eq!(
        ask(&public(state().await), request).await.code(),
        "forbidden"
    );
}

#[tokio::test]
async fn unknown_routes_and_methods_are_problems() {
    for path in [
        "/v1",
        "/v1/",
        "/v1/nope",
        "/v1/users/",
        "/v1/users/a/b/events",
    ] {
        let answer = call("POST", path, json!({})).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_str()),
            (404, "not_found"),
            "{path}"
        );
    }
    let answer = call("PATCH", "/v1/connections/x", Value::Null).await;
    assert_eq!(
        (answer.status.as_u16(), answer.code().as_str()),
        (405, "method_not_allowed")
    );
    let allowed = answer.headers[header::ALLOW].to_str().unwrap();
    assert!(
        allowed.contains("GET") && allowed.contains("DELETE"),
        "{allowed}"
    );
}

#[tokio::test]
async fn metrics_are_open_on_the_internal_listener_only_and_name_routes_not_paths() {
    let open = internal(state().await);
    let get = |path: &str| request("GET", path, None).body(Body::empty()).unwrap();
    for path in ["/v1/users/secret-id", "/v1/made-up", "/elsewhere"] {
        ask(&open, get(path)).await;
    }
    let scrape = ask(&open, get("/metrics")).await;
    assert_eq!(scrape.status, 200);
    assert_eq!(
        scrape.headers[header::CONTENT_TYPE],
        "text/plain; version=0.0.4"
    );
    for route in ["/v1/users/{user}", "unmatched"] {
        let label = format!("switchboard_api_request_duration_seconds_count{{route=\"{route}\"");
        assert!(scrape.text.contains(&label), "{}", scrape.text);
    }
    assert!(!scrape.text.contains("secret-id") && !scrape.text.contains("made-up"));

    let closed = public(state().await);
    assert_eq!(ask(&closed, get("/metrics")).await.status, 401);
    assert_eq!(ask(&closed, get("/healthz")).await.status, 200);
    assert_eq!(ask(&closed, get("/readyz")).await.text, "ready");
    assert_eq!(ask(&open, get("/elsewhere")).await.code(), "not_found");
}

#[tokio::test]
async fn metrics_on_the_public_listener_ask_for_any_key() {
    let router = public(state().await);
    for (key, status) in [
        ("read", 200),
        ("send", 200),
        ("disconnect", 200),
        ("admin", 200),
        (KEY, 200),
        ("every-scopf", 401),
        (ADMINS_TOKEN, 200),
        (USERS_TOKEN, 403),
    ] {
        let get = request("GET", "/metrics", Some(key)).body(Body::empty());
        assert_eq!(ask(&router, get.unwrap()).await.status, status, "{key}");
    }
}

#[tokio::test]
async fn the_public_router_leaves_other_paths_to_its_neighbour() {
    let neighbour = Router::new()
        .route("/socket.io/", get(|| async { "sockets" }))
        .fallback(|| async { "neighbour" });
    let router = public(state().await).merge(neighbour);
    let get = |path: &str| request("GET", path, None).body(Body::empty()).unwrap();
    assert_eq!(ask(&router, get("/socket.io/")).await.text, "sockets");
    assert_eq!(ask(&router, get("/elsewhere")).await.text, "neighbour");
    assert_eq!(ask(&router, get("/v1/nope")).await.code(), "not_found");
}

#[tokio::test]
async fn a_panic_is_a_problem() {
    let router = Router::new().route(
        "/v1/panic",
        get(async || -> () { panic!("a handler's fault") }),
    );
    let router = assemble(router, &document(), state().await);
    let request = request("GET", "/v1/panic", None)
        .body(Body::empty())
        .unwrap();
    let answer = ask(&router, request).await;
    assert_eq!(
        (answer.status.as_u16(), answer.code().as_str()),
        (500, "internal")
    );
    assert!(!answer.text.contains("fault"), "{}", answer.text);
}

/// The client is still writing when the server knows enough. It gets its answer all the same, and no reset.
#[tokio::test]
async fn a_body_that_is_far_too_large_gets_its_413() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(axum::serve(listener, public(state().await)).into_future());
    let length = 8 * 1024 * 1024;
    let head = format!(
        "POST /v1/broadcast HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {KEY}\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![b' '; length]).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    server.abort();
}
