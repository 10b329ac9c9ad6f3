//! Who has sent a call: signatures as Standard Webhooks has them.

use secrecy::{ExposeSecret, SecretString};
use standardwebhooks::{Webhook, WebhookError};

/// Signs by each of several secrets.
pub(super) struct Signer(Vec<Webhook>);

impl Signer {
    /// Signs by secrets that are written `whsec_` and base64.
    pub(super) fn new<'a>(
        secrets: impl IntoIterator<Item = &'a SecretString>,
    ) -> Result<Self, WebhookError> {
        let keys = secrets
            .into_iter()
            .map(|one| Webhook::new(one.expose_secret()));
        keys.collect::<Result<_, _>>().map(Self)
    }

    /// The value of `webhook-signature`: one signature for each secret, with spaces between them. `time` is in seconds.
    pub(super) fn sign(&self, id: &str, time: i64, body: &str) -> Result<String, WebhookError> {
        let signatures = self.0.iter().map(|key| key.sign(id, time, body.as_bytes()));
        Ok(signatures.collect::<Result<Vec<_>, _>>()?.join(" "))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    const ID: &str = "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk";
    const BODY: &str = r#"{"email":"test@example.com","username":"test_user"}"#;

    /// The vector of the specification's own libraries.
    #[test]
    fn the_vector_of_standard_webhooks_holds_and_each_secret_signs() {
        let vector = "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=";
        let (first, second) = (
            SECRET.into(),
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into(),
        );
        let sign = |secrets: &[&SecretString]| {
            let signer = Signer::new(secrets.iter().copied()).unwrap();
            signer.sign(ID, 1_649_367_553, BODY).unwrap()
        };
        assert_eq!(sign(&[&first]), vector);
        let both = sign(&[&second, &first]);
        let (other, same) = both.split_once(' ').unwrap();
        assert_eq!(same, vector);
        assert!(other.starts_with("v1,") && other != vector);
    }
}
