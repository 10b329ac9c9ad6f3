//! The header: `none` in all its spellings, parameters that must be understood, and keys that the token brings itself.

use super::*;

pub(super) fn tokens() -> Vec<(&'static str, String, AuthError)> {
    let jwk = json!({"kty": "oct", "k": URL_SAFE_NO_PAD.encode("theirs")});
    let signed = |header: &str| Signer::Secret.sign(Algorithm::HS256, header, &payload(json!({})));
    vec![
        ("none", unsigned(r#"{"alg":"none"}"#, ""), Invalid),
        ("none, signed", signed(r#"{"alg":"none"}"#), Invalid),
        ("None", signed(r#"{"alg":"None"}"#), Invalid),
        ("NONE", signed(r#"{"alg":"NONE"}"#), Invalid),
        ("nOnE", signed(r#"{"alg":"nOnE"}"#), Invalid),
        (
            "none with a signature of blanks",
            unsigned(r#"{"alg":"none"}"#, "AAAA"),
            Invalid,
        ),
        ("no alg", signed(r#"{"typ":"JWT"}"#), Invalid),
        (
            "alg of a wrong type",
            signed(r#"{"alg":["HS256"]}"#),
            Invalid,
        ),
        ("alg null", signed(r#"{"alg":null}"#), Invalid),
        ("alg in lower case", signed(r#"{"alg":"hs256"}"#), Invalid),
        ("alg unknown", signed(r#"{"alg":"HS1"}"#), Invalid),
        (
            "alg twice",
            signed(r#"{"alg":"none","alg":"HS256"}"#),
            Invalid,
        ),
        ("header is no object", signed("[]"), Invalid),
        ("header is no JSON", signed("alg=HS256"), Invalid),
        ("ES256K", signed(r#"{"alg":"ES256K"}"#), Invalid),
        (
            "another HMAC than was used",
            signed(r#"{"alg":"HS512"}"#),
            Invalid,
        ),
        (
            "crit",
            with_header(json!({"crit": ["b64"], "b64": true})),
            Invalid,
        ),
        ("crit, empty", with_header(json!({"crit": []})), Invalid),
        ("crit, null", with_header(json!({"crit": null})), Invalid),
        (
            "crit, of what we know",
            with_header(json!({"crit": ["exp"]})),
            Invalid,
        ),
        ("b64", with_header(json!({"b64": false})), Invalid),
        ("zip", with_header(json!({"zip": "DEF"})), Invalid),
        ("enc", with_header(json!({"enc": "A128GCM"})), Invalid),
        (
            "typ of a logout token",
            with_header(json!({"typ": "logout+jwt"})),
            Invalid,
        ),
        (
            "typ of a wrong type",
            with_header(json!({"typ": 1})),
            Invalid,
        ),
        (
            "kid of a wrong type",
            with_header(json!({"kid": 7})),
            Invalid,
        ),
        ("kid null", with_header(json!({"kid": null})), Invalid),
        (
            "kid of another key",
            with_header(json!({"kid": "a"})),
            Invalid,
        ),
        (
            "jwk of its own",
            hmac_of(b"theirs", &json!({"alg": "HS256", "jwk": jwk}).to_string()),
            Invalid,
        ),
        (
            "kid as a path",
            hmac_of(b"", r#"{"alg":"HS256","kid":"../../../../dev/null"}"#),
            Invalid,
        ),
        (
            "kid as SQL",
            hmac_of(b"x", r#"{"alg":"HS256","kid":"' UNION SELECT 'x"}"#),
            Invalid,
        ),
        ("another secret", hmac_of(b"another", HS256), Invalid),
        ("an empty secret", hmac_of(b"", HS256), Invalid),
    ]
}
