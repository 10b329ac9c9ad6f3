//! The API over HTTP, in front of a node that has no connections.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod access;
mod calls;
mod document;
mod edges;
mod load;
mod shapes;

use async_trait::async_trait;
use axum::body::{Body, to_bytes};
use bytesize::ByteSize;
use http::{HeaderMap, StatusCode, header};
use serde_json::Value;
use tower::ServiceExt;

use super::{auth::TokenVerifier, *};
use crate::{
    auth::Authenticator,
    backend::Backends,
    bus::Bus,
    config::{Api, ApiKey, Config, RunningConfig, Scope},
    connection::Instance,
    gateway::{Application, Parts, TokenBearer},
    registry::memory::MemoryRegistry,
    telemetry::traces::Traces,
};

const KEY: &str = "every-scope";

const ADMINS_TOKEN: &str = "admins.own.token";
const USERS_TOKEN: &str = "users.own.token";

struct Tokens;

#[async_trait]
impl TokenVerifier for Tokens {
    async fn verify(&self, token: &str) -> Result<TokenBearer, ApiError> {
        let admin = match token {
            ADMINS_TOKEN => true,
            USERS_TOKEN => false,
            _ => return Err(ApiError::unauthorized()),
        };
        Ok(TokenBearer {
            user_id: "7".into(),
            admin,
        })
    }
}

async fn state() -> ApiState {
    state_of(Config::default()).await
}

/// The state of a node that can sign tokens.
async fn issuing() -> ApiState {
    let mut config = Config::default();
    config.auth.jwt.secret = Some("a secret of at least thirty-two bytes".into());
    state_of(config).await
}

async fn state_of(mut config: Config) -> ApiState {
    let named = |name: &str, scopes: &[Scope]| ApiKey {
        name: name.into(),
        key: name.into(),
        scopes: scopes.to_vec(),
    };
    let keys = Api {
        key: Some(KEY.into()),
        keys: vec![
            named("read", &[Scope::Read]),
            named("send", &[Scope::Send]),
            named("disconnect", &[Scope::Disconnect]),
            named("admin", &[Scope::Admin]),
        ],
        ..Api::default()
    };
    config.cors.allowed_origins = vec!["https://shop.example.com".into()];
    config.limits.max_payload = ByteSize::kb(1);
    let keys = Arc::new(ApiAuth::new(&keys, Arc::new(Tokens)));
    let config = RunningConfig::new(config);
    ApiState::new(alone(config.clone()).await, keys, config)
}

/// The gateway of a node that runs alone, once it is ready.
async fn alone(config: RunningConfig) -> Gateway {
    let now = config.now();
    let instance = Instance::random();
    let (bus, inbox) = Bus::memory(&instance);
    let metrics = Metrics::new().unwrap();
    let (gateway, _) = Gateway::start(Parts {
        node_id: "alone".into(),
        auth: Authenticator::new(&now.auth, &now.namespaces).unwrap(),
        registry: Arc::new(MemoryRegistry::new(&now.registry, &now.presence)),
        backends: Arc::new(Backends::new(&now, metrics.clone(), Traces::default()).unwrap()),
        metrics,
        config,
        instance,
        bus,
        inbox,
        application: Application::default(),
        traces: Traces::default(),
    })
    .await;
    while !gateway.unready().is_empty() {
        tokio::task::yield_now().await;
    }
    gateway
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {:?}", self.text))
    }

    /// The code of a problem that is one to the letter.
    fn code(&self) -> String {
        let problem = self.json();
        assert_eq!(
            self.headers[header::CONTENT_TYPE],
            "application/problem+json"
        );
        assert_eq!(problem["status"], self.status.as_u16());
        assert_eq!(problem["title"], self.status.canonical_reason().unwrap());
        assert_eq!(problem["type"], "about:blank");
        assert!(!problem["detail"].as_str().unwrap().is_empty());
        problem["code"].as_str().unwrap().to_owned()
    }
}

async fn ask(router: &Router, request: http::Request<Body>) -> Answer {
    let response = router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    Answer {
        status: parts.status,
        headers: parts.headers,
        text: String::from_utf8(body.to_vec()).unwrap(),
    }
}

fn request(method: &str, path: &str, key: Option<&str>) -> http::request::Builder {
    let request = http::Request::builder().method(method).uri(path);
    match key {
        Some(key) => request.header(header::AUTHORIZATION, format!("Bearer {key}")),
        None => request,
    }
}

/// A call with a JSON body, or with none if that is null.
async fn call(method: &str, path: &str, body: Value) -> Answer {
    call_at(&public(state().await), method, path, body).await
}

async fn call_at(router: &Router, method: &str, path: &str, body: Value) -> Answer {
    let request = request(method, path, Some(KEY));
    let request = match body {
        Value::Null => request.body(Body::empty()),
        body => request
            .header(header::CONTENT_TYPE, "application/json")
            .body(body.to_string().into()),
    };
    ask(router, request.unwrap()).await
}
