//! The fleet: its nodes, and its size.

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    ApiState,
    auth::{Allowed, scope},
    error::ApiError,
    openapi::Guarded,
};
use crate::registry::{Node, Totals};

/// The live nodes, by name.
#[derive(Debug, Serialize, ToSchema)]
pub struct NodesAnswer {
    nodes: Vec<Node>,
}

/// List the live nodes
///
/// A node that has died is left out once its lease has run out.
#[utoipa::path(
    get,
    path = "/nodes",
    tag = "cluster",
    responses(
        (status = 200, description = "The nodes", body = NodesAnswer, example = json!({"nodes": [{
            "nodeId": "gateway-1-x7", "version": "0.1.0", "startedAt": "2030-01-01T00:00:00Z",
            "lastHeartbeat": "2030-01-01T00:00:03Z", "connections": 1200, "users": 900, "draining": false,
        }]})),
        Guarded,
    ),
    security(("key" = ["read"])),
)]
pub async fn list_nodes(
    _: Allowed<scope::Read>,
    State(state): State<ApiState>,
) -> Result<Json<NodesAnswer>, ApiError> {
    let nodes = state.gateway.nodes().await?;
    Ok(Json(NodesAnswer { nodes }))
}

/// Count the cluster
#[utoipa::path(
    get,
    path = "/stats",
    tag = "cluster",
    responses(
        (status = 200, description = "The cluster in three numbers", body = Totals,
            example = json!({"nodes": 3, "connections": 3600, "users": 2700})),
        Guarded,
    ),
    security(("key" = ["read"])),
)]
pub async fn stats(
    _: Allowed<scope::Read>,
    State(state): State<ApiState>,
) -> Result<Json<Totals>, ApiError> {
    Ok(Json(state.gateway.totals().await?))
}
