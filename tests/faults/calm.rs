//! No fault at all: what the other tests begin with, and the harness itself.

use std::time::Duration;

use crate::support::{
    bounds::seconds,
    fleet::{Fleet, Plan},
    run::Run,
};

#[tokio::test]
async fn a_fleet_without_faults_is_exact_and_leaves_nothing() {
    let run = Run::begin("calm");
    let fleet = Fleet::start(&run, Plan::brisk(3).proxied()).await;
    let clients = fleet.crowd("calm", 60).await;
    let took = fleet.exact(&clients, seconds(5.0)).await;
    run.tell(format!("exact after {took:?}"));
    fleet.finish(clients, Duration::from_secs(10)).await;
}
