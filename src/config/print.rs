//! The configuration as TOML that can be read back, but for its secrets.

use std::time::Duration;

use bytesize::ByteSize;
use humantime_serde::re::humantime;

use super::Config;

/// What is shown in a secret's place. As a value of its own it is refused: it is a printout that was read back.
pub(super) const MASK: &str = "***";

impl Config {
    /// The effective configuration as TOML: every key that has a value, durations and sizes as an operator writes them,
    /// secrets as `***`. Of a Redis URL only the password is masked, and a query is left out.
    ///
    /// # Errors
    ///
    /// When there is no way to write it as TOML, such as a path that isn't UTF-8.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }
}

/// A URL without its password. What does not parse may hold one anywhere, and so may a query.
pub(super) fn masked_url(url: &str) -> String {
    let Ok(mut url) = reqwest::Url::parse(url) else {
        return MASK.to_owned();
    };
    url.set_query(None);
    url.set_fragment(None);
    if url.password().is_some() && url.set_password(Some(MASK)).is_err() {
        return MASK.to_owned();
    }
    url.into()
}

/// A duration in the largest unit that leaves no fraction; in several units if it is no whole number of milliseconds. Exact,
/// as `humantime`'s own text is not: of 720 h that is `30days`.
pub(super) fn duration(duration: Duration) -> String {
    const UNITS: [(u128, &str); 4] = [(3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")];
    let millis = duration.as_millis();
    if duration.is_zero() {
        return "0s".to_owned();
    }
    if !duration.subsec_nanos().is_multiple_of(1_000_000) {
        return humantime::format_duration(duration).to_string();
    }
    UNITS
        .iter()
        .find(|(unit, _)| millis.is_multiple_of(*unit))
        .map_or_else(String::new, |(unit, name)| {
            format!("{}{name}", millis / unit)
        })
}

/// A size in the largest unit that leaves no fraction. Exact, as `ByteSize`'s own text is not: that is rounded to a tenth of a
/// unit.
pub(super) fn size(size: ByteSize) -> String {
    const UNITS: [(u64, &str); 6] = [
        (bytesize::GIB, "GiB"),
        (bytesize::GB, "GB"),
        (bytesize::MIB, "MiB"),
        (bytesize::MB, "MB"),
        (bytesize::KIB, "KiB"),
        (bytesize::KB, "KB"),
    ];
    let bytes = size.as_u64();
    UNITS
        .iter()
        .find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit))
        .map_or_else(
            || format!("{bytes}B"),
            |(unit, name)| format!("{}{name}", bytes / unit),
        )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{ApiKey, PerUserPolicy, Scope};

    #[test]
    fn a_printout_reads_back_as_itself() {
        let mut config = Config {
            internal_listen: Some(([127, 0, 0, 1], 3001).into()),
            node_id: Some("n1".into()),
            trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()],
            ..Config::default()
        };
        config.limits.max_payload = ByteSize(1_234_567);
        config.limits.memory = Some(ByteSize::gib(2));
        config.namespaces[0].issuer = Some(vec!["https://id.example.com".into()]);
        config.namespaces[1].audience = Some(Vec::new());
        config.auth.jwt.leeway = std::time::Duration::from_millis(1_250);
        config.auth.session.user_id_pointer = vec!["/uid".into()];
        config.limits.connections_per_user_policy = PerUserPolicy::EvictOldest;

        let printed = config.to_toml().unwrap();
        let read: Config = toml::from_str(&printed).unwrap();

        assert_eq!(read.to_toml().unwrap(), printed);
        assert_eq!(read.limits.max_payload, config.limits.max_payload);
        assert_eq!(read.limits.memory, config.limits.memory);
        assert_eq!(read.limits.connections, None);
        assert_eq!(read.auth.jwt.leeway, config.auth.jwt.leeway);
        assert_eq!(read.namespaces[1].audience, Some(Vec::new()));
        assert_eq!(read.auth.session.user_id_pointer, ["/uid"]);
        let policy = read.limits.connections_per_user_policy;
        assert_eq!(policy, PerUserPolicy::EvictOldest);
    }

    #[test]
    fn sizes_keep_every_byte() {
        for (bytes, text) in [
            (1_000_000, "1MB"),
            (1_048_576, "1MiB"),
            (1_500_000, "1500KB"),
            (1_025, "1025B"),
            (64_000_000, "64MB"),
            (0, "0B"),
        ] {
            assert_eq!(size(ByteSize(bytes)), text);
            assert_eq!(text.parse::<ByteSize>().unwrap(), ByteSize(bytes));
        }
    }

    #[test]
    fn durations_are_printed_in_one_unit_and_read_back() {
        for (duration, text) in [
            (Duration::ZERO, "0s"),
            (Duration::from_millis(250), "250ms"),
            (Duration::from_millis(1_250), "1250ms"),
            (Duration::from_secs(30), "30s"),
            (Duration::from_secs(90), "90s"),
            (Duration::from_secs(900), "15m"),
            (Duration::from_secs(90 * 60), "90m"),
            (Duration::from_secs(3600), "1h"),
            (Duration::from_secs(168 * 3600), "168h"),
            (Duration::from_secs(720 * 3600), "720h"),
            (Duration::from_secs(400 * 24 * 3600), "9600h"),
            (Duration::from_micros(1_500), "1ms 500us"),
            (Duration::from_nanos(1), "1ns"),
        ] {
            let mut config = Config::default();
            config.ping.interval = duration;
            let printed = config.to_toml().unwrap();
            let line = format!("interval = \"{text}\"");
            assert!(printed.contains(&line), "{line} in {printed}");
            let read: Config = toml::from_str(&printed).unwrap();
            assert_eq!(read.ping.interval, duration);
        }
    }

    #[test]
    fn no_secret_is_printed() {
        let mut config = Config::default();
        config.auth.jwt.secret = Some("hush-1".into());
        config.auth.jwt.previous_secrets = vec!["hush-2".into()];
        config.api.key = Some("hush-3".into());
        config.api.keys = vec![ApiKey {
            name: "billing".into(),
            key: "hush-4".into(),
            scopes: vec![Scope::Send],
        }];
        config.auth.jwt.keys = vec![crate::config::JwtKey {
            secret: Some("hush-10".into()),
            ..Default::default()
        }];
        config.auth.session.secrets = vec!["hush-8".into()];
        config.registry.secrets = vec!["hush-11".into()];
        config.traces.headers = vec!["x-api-key=hush-13".into()];
        config.auth.session.redis_url = Some("redis://:hush-9@sessions.example".into());
        config.ingress.emitter = Some(crate::config::EmitterIngress {
            redis_url: Some("redis://:hush-12@emitters.example".into()),
            ..Default::default()
        });
        config.redis.urls = vec![
            "redis://ann:hush-5@redis.example:6380/2?x=hush-6".into(),
            "hush-7".into(),
        ];

        let printed = config.to_toml().unwrap();

        assert!(!printed.contains("hush"), "{printed}");
        assert!(
            printed.contains("redis://ann:***@redis.example:6380/2"),
            "{printed}"
        );
        assert!(
            printed.contains("redis://:***@sessions.example"),
            "{printed}"
        );
        assert!(printed.contains("billing"));
        assert!(!format!("{config:?}").contains("hush"));
    }

    #[test]
    fn a_url_without_a_password_is_shown_whole() {
        assert_eq!(
            masked_url("rediss://redis.example:6379/1"),
            "rediss://redis.example:6379/1"
        );
    }
}
