//! One provider of cryptography for the whole process: AWS-LC, for tokens and for TLS alike.

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, crypto};
use rustls::crypto::{CryptoProvider, aws_lc_rs};

/// Cryptography that can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cryptography: {0}")]
pub struct CryptoError(&'static str);

/// Installs AWS-LC as the process's default in `rustls` (Redis, JWKS) and in `jsonwebtoken`, then signs and verifies
/// once. May be called any number of times; a provider that is installed already stays.
///
/// Both crates otherwise pick a provider from the features of the build, and panic at the first token or handshake
/// when a dependency has switched on a second one.
///
/// # Errors
///
/// When the self-test fails.
pub fn install_crypto() -> Result<(), CryptoError> {
    if CryptoProvider::get_default().is_none() {
        // Lost to another thread that came first: as good.
        let _ = aws_lc_rs::default_provider().install_default();
    }
    let _ = crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    self_test()
}

fn self_test() -> Result<(), CryptoError> {
    let secret = b"self-test";
    let message = b"message";
    let signature = crypto::sign(message, &EncodingKey::from_secret(secret), Algorithm::HS256)
        .map_err(|_| CryptoError("can't sign"))?;
    let verify = |message: &[u8]| {
        crypto::verify(
            &signature,
            message,
            &DecodingKey::from_secret(secret),
            Algorithm::HS256,
        )
    };
    if !matches!(verify(message), Ok(true)) {
        return Err(CryptoError("its own signature does not verify"));
    }
    if !matches!(verify(b"another"), Ok(false)) {
        return Err(CryptoError("a wrong signature verifies"));
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn installs_any_number_of_times() {
        install_crypto().unwrap();
        install_crypto().unwrap();
        assert!(CryptoProvider::get_default().is_some());
    }
}
