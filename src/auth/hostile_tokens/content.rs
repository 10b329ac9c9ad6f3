//! What a payload says of this door's issuer and audience, and numbers that JavaScript can't write.

use super::*;

pub(super) fn tokens() -> Vec<(&'static str, String, AuthError)> {
    vec![
        (
            "past exp, another issuer",
            saying(json!({"exp": now() - 600, "iss": "https://evil"})),
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
        (
            "sub beyond exact floats",
            saying(json!({"sub": 1e17})),
            Invalid,
        ),
    ]
}
