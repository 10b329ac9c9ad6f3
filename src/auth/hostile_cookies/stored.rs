//! What a store may hold under a good cookie's id.

use super::*;

#[tokio::test]
async fn hostile_sessions_are_nobody_s() {
    let (door, store) = door();
    let deep = format!("{}1{}", "{\"a\":".repeat(1000), "}".repeat(1000));
    let wide = format!("{{\"userId\":42,\"a\":\"{}\"}}", "x".repeat(1_000_000));
    for session in [
        "",
        "null",
        "42",
        "\"42\"",
        "[{\"userId\":42}]",
        "{",
        "{\"userId\":42}{\"userId\":43}",
        "{\"userId\":42,\"userId\":43}",
        "{\"userId\":42,\"passport\":{\"user\":1,\"user\":2}}",
        "{'userId':42}",
        "{}",
        "{\"userId\":null}",
        "{\"userId\":\"\"}",
        "{\"userId\":0.5}",
        "{\"userId\":1e17}",
        "{\"userId\":1e999}",
        "{\"userId\":true}",
        "{\"userId\":false}",
        "{\"userId\":[42]}",
        "{\"userId\":{\"$ne\":null}}",
        "{\"__proto__\":{\"userId\":42}}",
        "{\"userId\":\"\\ud800\"}",
        "{\"cookie\":{\"expires\":\"2020-01-01T00:00:00.000Z\"},\"userId\":42}",
        "{\"cookie\":{\"expires\":{}},\"userId\":42}",
        &format!("{{\"userId\":\"{}\"}}", "x".repeat(1025)),
        &deep,
        &wide,
    ] {
        store.set("hostile", session);
        let cookies = format!("connect.sid={}", escaped(&signed("hostile")));
        let outcome = user(&door, cookies).await;
        assert_eq!(outcome, Err(NotAuthenticated), "{session:.80}");
    }
    store.set("hostile", b"{\"userId\":\"\xff\"}".as_slice());
    let cookies = format!("connect.sid={}", escaped(&signed("hostile")));
    assert_eq!(user(&door, &cookies).await, Err(NotAuthenticated));
    // What else is of the wrong type grants nothing.
    let odd = json!({"userId": 42, "username": {"a": 1}, "role": {"admin": true}});
    store.set("hostile", odd.to_string());
    let identity = enter(&door, "/", &headers(&[cookies.as_bytes()])).await;
    let identity = identity.unwrap().unwrap();
    assert_eq!((identity.username, identity.roles), (None, vec![]));
}

#[tokio::test]
async fn a_session_has_the_rights_of_its_roles() {
    let (door, _) = door();
    let (user, admin) = (signed("good"), signed("admin"));
    let enter = async |path, cookie: &str| {
        let headers = headers(&[format!("connect.sid={}", escaped(cookie)).as_bytes()]);
        enter(&door, path, &headers).await.map(Option::unwrap)
    };
    assert_eq!(enter("/admin", &user).await, Err(AdminRequired));
    assert_eq!(enter("/staff", &user).await, Err(AccessDenied));
    let root = enter("/admin", &admin).await.unwrap();
    assert_eq!(root.username.as_deref(), Some("root"));
    assert_eq!(root.expires_at, None);
    assert!(matches!(root.session, Some(SessionRef::Cookie(id)) if id.expose() == "admin"));
    // Where no credentials are asked for, good ones count.
    assert_eq!(enter("/public", &user).await.unwrap().user_id, "42".into());
}
