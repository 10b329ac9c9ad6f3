//! What a payload says: times, issuer, audience and user.

use super::*;

pub(super) fn tokens() -> Vec<(&'static str, String, AuthError)> {
    let past = now() - 600;
    let future = now() + 600;
    vec![
        ("past exp", saying(json!({"exp": past})), Expired),
        ("negative exp", saying(json!({"exp": -1})), Expired),
        (
            "exp a fraction ago",
            saying(json!({"exp": past as f64 + 0.5})),
            Expired,
        ),
        (
            "past exp, badly signed",
            sign_with(
                &EncodingKey::from_secret(b"x"),
                Algorithm::HS256,
                HS256.as_bytes(),
                payload(json!({"exp": past})).as_bytes(),
            ),
            Invalid,
        ),
        (
            "past exp, another issuer",
            saying(json!({"exp": past, "iss": "https://evil"})),
            Invalid,
        ),
        ("no exp", saying(json!({"exp": null})), Invalid),
        (
            "exp in a string",
            saying(json!({"exp": future.to_string()})),
            Invalid,
        ),
        ("exp in a list", saying(json!({"exp": [future]})), Invalid),
        (
            "exp in milliseconds",
            saying(json!({"exp": future * 1000})),
            Invalid,
        ),
        (
            "exp out of reach",
            saying(json!({"exp": u64::MAX})),
            Invalid,
        ),
        (
            "exp as a huge float",
            saying(json!({"exp": 1e300})),
            Invalid,
        ),
        (
            "exp out of JSON's reach",
            with_payload(
                payload(json!({"exp": 7}))
                    .replace(":7", ":1e999")
                    .as_bytes(),
            ),
            Invalid,
        ),
        ("not yet", saying(json!({"nbf": future})), Invalid),
        (
            "nbf in a string",
            saying(json!({"nbf": past.to_string()})),
            Invalid,
        ),
        ("issued tomorrow", saying(json!({"iat": future})), Invalid),
        (
            "iat in a string",
            saying(json!({"iat": past.to_string()})),
            Invalid,
        ),
        ("no iss", saying(json!({"iss": null})), Invalid),
        (
            "another iss",
            saying(json!({"iss": "https://idp.evil"})),
            Invalid,
        ),
        (
            "iss of a wrong type",
            saying(json!({"iss": ["https://idp"]})),
            Invalid,
        ),
        ("no aud", saying(json!({"aud": null})), Invalid),
        ("another aud", saying(json!({"aud": "shop"})), Invalid),
        (
            "other auds",
            saying(json!({"aud": ["shop", "chat2"]})),
            Invalid,
        ),
        (
            "aud of a wrong type",
            saying(json!({"aud": {"chat": 1}})),
            Invalid,
        ),
        (
            "aud, in part of a wrong type",
            saying(json!({"aud": ["chat", 1]})),
            Invalid,
        ),
        ("nobody", saying(json!({"sub": null})), Invalid),
        ("an empty sub", saying(json!({"sub": ""})), Invalid),
        (
            "sub of a wrong type",
            saying(json!({"sub": {"id": 1}})),
            Invalid,
        ),
        ("sub true", saying(json!({"sub": true})), Invalid),
        ("sub and a half", saying(json!({"sub": 1.5})), Invalid),
        (
            "sub beyond exact floats",
            saying(json!({"sub": 1e17})),
            Invalid,
        ),
        (
            "a very long sub",
            saying(json!({"sub": "x".repeat(1025)})),
            Invalid,
        ),
        ("jti of a wrong type", saying(json!({"jti": {}})), Invalid),
    ]
}
