//! What a key opens, for pages and programs that want to show no more than that.

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;

use super::{ApiState, auth::AnyKey, openapi::Guarded};
use crate::{config::Scope, connection::NodeId};

/// Who calls, and who answers.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MeAnswer {
    /// `key:NAME`, or `jwt:USER` for an administrator's token.
    name: String,
    /// What the key opens: `read`, `send`, `disconnect`, `admin`. With `admin`, all of them.
    #[schema(value_type = Vec<String>)]
    scopes: Vec<Scope>,
    /// The node that answers.
    node_id: NodeId,
    /// Its version of Switchboard.
    version: &'static str,
}

/// Say what the key opens
///
/// With any key, and with an administrator's token.
#[utoipa::path(
    get,
    path = "/me",
    tag = "cluster",
    responses(
        (status = 200, description = "The caller, and the node that answers", body = MeAnswer, example = json!({
            "name": "key:dashboard", "scopes": ["read"], "nodeId": "gateway-1-x7", "version": "0.1.0",
        })),
        Guarded,
    ),
    security(("key" = [])),
)]
pub async fn who_calls(caller: AnyKey, State(state): State<ApiState>) -> Json<MeAnswer> {
    let caller = caller.caller();
    let all = [Scope::Read, Scope::Send, Scope::Disconnect, Scope::Admin];
    Json(MeAnswer {
        name: caller.name().to_owned(),
        scopes: all.into_iter().filter(|scope| caller.may(*scope)).collect(),
        node_id: state.gateway.node_id().clone(),
        version: env!("CARGO_PKG_VERSION"),
    })
}
