//! Warnings and errors of one kind are limited in rate: many can be caused by a peer.

use std::{collections::HashMap, fmt::Debug, num::NonZeroU32, sync::Arc};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use parking_lot::Mutex;
use tracing::{
    Event, Level, Metadata, callsite::Identifier, field::Field, level_filters::LevelFilter,
    subscriber::Interest,
};
use tracing_subscriber::layer::{Context, Filter};

/// How many lines of a kind there may be at once; then one each second.
const BURST: NonZeroU32 = NonZeroU32::new(10).unwrap();

/// Lets through so many lines of each kind, and counts the others. A kind is a place in the code. Clones share the counts.
#[derive(Clone, Default)]
pub(super) struct RateLimit(Arc<Mutex<HashMap<Identifier, Kind>>>);

struct Kind {
    rate: DefaultDirectRateLimiter,
    message: String,
    suppressed: u64,
}

impl RateLimit {
    fn passes(&self, event: &Event<'_>) -> bool {
        if !is_limited(event.metadata()) {
            return true;
        }
        let mut kinds = self.0.lock();
        let kind = kinds
            .entry(event.metadata().callsite())
            .or_insert_with(|| Kind {
                rate: RateLimiter::direct(Quota::per_second(NonZeroU32::MIN).allow_burst(BURST)),
                message: message(event),
                suppressed: 0,
            });
        let passes = kind.rate.check().is_ok();
        if !passes {
            kind.suppressed += 1;
        }
        passes
    }

    /// Takes what was kept back since the last call: the message of each kind, and how many lines.
    fn take(&self) -> Vec<(String, u64)> {
        let mut kinds = self.0.lock();
        let held = kinds.values_mut().filter(|kind| kind.suppressed > 0);
        held.map(|kind| (kind.message.clone(), std::mem::take(&mut kind.suppressed)))
            .collect()
    }

    /// Logs how many lines were kept back since the last call.
    pub(super) fn report(&self) {
        for (of, lines) in self.take() {
            tracing::info!(lines, of, "lines were left out");
        }
    }
}

fn is_limited(metadata: &Metadata<'_>) -> bool {
    *metadata.level() <= Level::WARN
}

/// The message of the first line stands for its kind.
fn message(event: &Event<'_>) -> String {
    let mut text = String::new();
    event.record(&mut |field: &Field, value: &dyn Debug| {
        if field.name() == "message" {
            text = format!("{value:?}");
        }
    });
    text
}

impl<S> Filter<S> for RateLimit {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if is_limited(metadata) {
            // tracing-subscriber 0.3.23 asserts, in debug builds, that an event was asked about before it is refused.
            Interest::sometimes()
        } else {
            Interest::always()
        }
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        self.passes(event)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::TRACE)
    }
}
