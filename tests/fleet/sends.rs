//! What the answer to a send is worth when Redis does not take what is published (contract 3a), and which clients have got it then.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use switchboard::auth::NewToken;

use crate::{
    node::{Client, Node, fleet},
    redis_server::Server,
};

/// Two nodes, and a user of the role `tester` with a connection on each.
async fn scene(redis: &Server) -> (Vec<Node>, [Client; 2]) {
    let nodes = fleet(redis, 2).await;
    let token = NewToken {
        roles: vec!["tester".into()],
        ..NewToken::new("both", Duration::from_secs(600))
    };
    let connect = async |node: &Node| {
        let mut client = node.knock_by(&token).await.unwrap();
        assert_eq!(client.next_event().await[0], "ready");
        client
    };
    let devices = [connect(&nodes[0]).await, connect(&nodes[1]).await];
    (nodes, devices)
}

/// A call and its body, by the event that it sends.
type Call = (&'static str, fn(&str) -> Value);

const CALLS: [Call; 3] = [
    ("/v1/users/both/events", |event| json!({ "event": event })),
    ("/v1/broadcast", |event| json!({ "event": event })),
    (
        "/v1/events",
        |event| json!({ "messages": [{ "room": "user:both", "event": event }] }),
    ),
];

#[tokio::test]
async fn what_redis_does_not_publish_reaches_nobody_on_no_node() {
    let redis = Server::start().await;
    let (nodes, mut devices) = scene(&redis).await;
    let () = redis.run("ACL SETUSER default -spublish").await;
    for (path, body) in CALLS {
        let answer = nodes[0].call(Method::POST, path, body("refused")).await;
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert!(answer.headers().contains_key("retry-after"), "{path}");
    }
    let () = redis.run("ACL SETUSER default +spublish").await;
    for (path, body) in CALLS {
        nodes[0].post(path, body("repeated")).await;
    }
    for device in &mut devices {
        for _ in CALLS {
            assert_eq!(device.next_event().await, json!(["repeated"]));
        }
    }
}

#[tokio::test]
async fn what_redis_leaves_unanswered_may_have_been_sent_and_is_504() {
    let redis = Server::start().await;
    let (nodes, mut devices) = scene(&redis).await;
    let () = redis.run("CLIENT PAUSE 60000 WRITE").await;
    let body = json!({ "event": "unanswered" });
    let answer = nodes[0].call(Method::POST, "/v1/broadcast", body).await;
    assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT);
    let problem: Value = answer.json().await.unwrap();
    assert_eq!(problem["code"], "outcome_unknown");
    let body = json!({ "messages": [
        { "room": "role:tester", "event": "bulk" },
        { "room": "role:tester", "event": "untried" },
    ] });
    let answer = nodes[0].call(Method::POST, "/v1/events", body).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let results: Value = answer.json().await.unwrap();
    let code = |at: usize| &results["results"][at]["error"]["code"];
    assert_eq!(
        (code(0), code(1)),
        (&json!("outcome_unknown"), &json!("unavailable"))
    );
    let () = redis.run("CLIENT UNPAUSE").await;
    // It has been this time, here as elsewhere.
    for device in &mut devices {
        assert_eq!(device.next_event().await, json!(["unanswered"]));
        assert_eq!(device.next_event().await, json!(["bulk"]));
    }
}
