//! What a token may not bring about: a call to somewhere, or a secret that is shown.

use std::{io::ErrorKind, net::TcpListener};

use super::*;

#[tokio::test]
async fn a_token_makes_no_one_call_out() {
    let canary = TcpListener::bind("127.0.0.1:0").unwrap();
    canary.set_nonblocking(true).unwrap();
    let url = format!("http://{}/keys", canary.local_addr().unwrap());
    let door = door();
    let jwk = Signer::OtherRsa.jwk(None);
    for extra in [
        json!({"jku": url}),
        json!({"x5u": url}),
        json!({"jku": url, "x5u": url, "jwk": jwk, "x5c": ["AAAA"], "kid": url}),
    ] {
        // Passed over where the token is right, and no help where it is not.
        assert!(door.verify(&with_header(extra.clone())).await.is_ok());
        let mut header = extra;
        header["alg"] = json!("RS256");
        let header = header.to_string();
        let forged = Signer::OtherRsa.sign(Algorithm::RS256, &header, &payload(json!({})));
        assert_eq!(door.verify(&forged).await, Err(Invalid));
    }
    let called = canary.accept().map(drop);
    assert_eq!(called.unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[tokio::test]
async fn neither_debug_nor_refusals_show_a_token_or_a_key() {
    let door = door();
    let shown = format!("{door:?} {:?}", door.clone());
    assert!(
        !shown.contains(SECRET) && !shown.contains("secret of"),
        "{shown}"
    );

    let token = with_part(2, |_| "AAAA".into());
    let refusal = door.explain(&token).await.unwrap_err();
    let shown = format!("{refusal} {refusal:?} {:?}", door.verify(&token).await);
    for part in token.split('.') {
        assert!(!shown.contains(part), "{shown}");
    }
}
