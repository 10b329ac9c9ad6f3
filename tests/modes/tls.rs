//! Redis behind TLS, with a certificate of nobody's but the operator's.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
};

use serde_json::json;
use switchboard::{
    config,
    link::{Link, LinkError, Servers, Slot},
    metrics::Metrics,
};
use tempfile::TempDir;

use crate::{
    node::fleet_of,
    redis_server::{free_port, program, until},
};

fn openssl(directory: &Path, arguments: &str) {
    let made = Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(directory)
        .stderr(Stdio::null())
        .status()
        .expect("openssl is installed");
    assert!(made.success(), "openssl {arguments}");
}

/// Redis that speaks nothing but TLS.
struct Server {
    port: u16,
    process: Child,
    directory: TempDir,
}

impl Server {
    fn start() -> Self {
        let (port, directory) = (free_port(), tempfile::tempdir().unwrap());
        let path = directory.path();
        std::fs::write(path.join("names"), "subjectAltName=IP:127.0.0.1\n").unwrap();
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        openssl(
            path,
            &format!("req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=ca"),
        );
        openssl(
            path,
            &format!("req {key} -keyout key -out request -subj /CN=redis"),
        );
        openssl(
            path,
            "x509 -req -in request -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out cert",
        );
        let process = Command::new(program())
            .args(["--bind", "127.0.0.1", "--port", "0"])
            .args(["--tls-port", &port.to_string()])
            .args(["--tls-cert-file", "cert", "--tls-key-file", "key"])
            .args(["--tls-ca-cert-file", "ca.pem", "--tls-auth-clients", "no"])
            .args(["--save", "", "--appendonly", "no"])
            .current_dir(path)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        Self {
            port,
            process,
            directory,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn ping(redis: &config::Redis) -> Result<(), LinkError> {
    let servers = Servers::new(redis).unwrap();
    let link = Link::new(&servers, Metrics::new().unwrap()).unwrap();
    link.query("ping", Slot::of(b""), &redis::cmd("PING")).await
}

#[tokio::test]
async fn a_certificate_is_checked_against_the_file_that_is_configured() {
    let server = Server::start();
    let trusting = config::Redis {
        urls: vec![format!("rediss://127.0.0.1:{}", server.port).into()],
        ca_file: Some(server.directory.path().join("ca.pem")),
        ..config::Redis::default()
    };
    until("the server answers", async || ping(&trusting).await.is_ok()).await;
    let wary = config::Redis {
        ca_file: None,
        ..trusting.clone()
    };
    let error = ping(&wary).await.unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");

    let nodes = fleet_of(&trusting, 2).await;
    let mut client = nodes[0].connect("42").await;
    let sent = nodes[1].post("/v1/users/42/events", json!({ "event": "e", "data": 1 }));
    assert_eq!(
        sent.await,
        json!({ "connections": 1, "nodes": 1, "unconfirmed": 0 })
    );
    assert_eq!(client.next_event().await, json!(["e", 1]));
}
