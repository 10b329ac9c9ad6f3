//! A client without a WebSocket: each packet is a request, by hand.

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;

use super::client::Hello;

/// A polling session.
#[derive(Clone)]
pub(crate) struct Polling {
    url: String,
    http: reqwest::Client,
}

impl Polling {
    /// The Engine.IO handshake; the status if it is refused.
    pub(crate) async fn open(to: SocketAddr) -> Result<Self, String> {
        let http = reqwest::Client::builder()
            .pool_max_idle_per_host(0)
            .timeout(Duration::from_secs(60))
            .build()
            .unwrap();
        let url = format!("http://{to}/socket.io/?EIO=4&transport=polling");
        let answer = http
            .get(&url)
            .send()
            .await
            .map_err(|error| error.to_string())?;
        if answer.status() != 200 {
            return Err(answer.status().as_u16().to_string());
        }
        let text = answer.text().await.map_err(|error| error.to_string())?;
        let open: Value = serde_json::from_str(&text[1..]).map_err(|error| error.to_string())?;
        let sid = open["sid"].as_str().unwrap_or_default();
        Ok(Self {
            url: format!("{url}&sid={sid}"),
            http,
        })
    }

    /// Sends packets, as one body. Returns the status; 0 if there was no answer.
    pub(crate) async fn post(&self, packets: &str) -> u16 {
        let answer = self
            .http
            .post(&self.url)
            .body(packets.to_owned())
            .send()
            .await;
        answer.map_or(0, |answer| answer.status().as_u16())
    }

    /// Polls once: the packets that came, or the status if it is not 200; 0 if there was no answer.
    pub(crate) async fn poll(&self) -> Result<Vec<String>, u16> {
        let answer = self.http.get(&self.url).send().await.map_err(|_| 0_u16)?;
        let status = answer.status().as_u16();
        let text = answer.text().await.map_err(|_| 0_u16)?;
        match status {
            200 => Ok(text.split('\x1e').map(str::to_owned).collect()),
            status => Err(status),
        }
    }

    /// Connects, and polls until `ready` came, pings answered. Returns its payload.
    pub(crate) async fn connect(&self, hello: &Hello) -> Result<Value, String> {
        let status = self.post(&hello.packet()).await;
        if status != 200 {
            return Err(format!("CONNECT: {status}"));
        }
        loop {
            let packets = self
                .poll()
                .await
                .map_err(|status| format!("poll: {status}"))?;
            for packet in packets {
                if packet == "2" {
                    self.post("3").await;
                } else if packet.starts_with("44") {
                    return Err(packet);
                } else if let Some(event) = packet.strip_prefix("42") {
                    let mut event: Value = serde_json::from_str(event).unwrap_or_default();
                    if event[0] == "ready" {
                        return Ok(event[1].take());
                    }
                }
            }
        }
    }
}
