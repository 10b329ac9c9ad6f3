//! What is shown and logged of cookies and sessions: nothing.

use std::io;

use parking_lot::Mutex;

use super::*;

/// What is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn nothing_of_a_cookie_or_a_session_is_shown_or_logged() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let guard = tracing::subscriber::set_default(subscriber);

    let (door, store) = door();
    store.set("hush-id", json!({"userId": "hush-user"}).to_string());
    store.set("hush-broken", "{\"hush\":");
    let mut shown = String::new();
    for id in ["hush-id", "hush-broken", "hush-gone"] {
        for value in [signed(id), format!("s:{id}.AAAA"), id.to_owned()] {
            let headers = headers(&[format!("connect.sid={}", escaped(&value)).as_bytes()]);
            let credentials = Credentials::from_handshake(None, &headers);
            let identity = enter(&door, "/", &headers).await;
            shown += &format!("{credentials:?} {door:?}");
            match identity {
                Ok(identity) => shown += &format!("{:?}", identity.unwrap().session),
                Err(error) => shown += &format!("{error} {error:?}"),
            }
            store.set_away(true);
            let _ = enter(&door, "/", &headers).await;
            store.set_away(false);
        }
    }
    drop(guard);
    let log = String::from_utf8(log.0.lock().clone()).unwrap();
    assert!(log.contains("a session cookie is refused"), "{log}");
    assert!(log.contains("can't look up a session"), "{log}");
    for text in [log, shown] {
        for secret in ["hush", COOKIE_SECRET, OLD_SECRET, SECRET] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}
