//! Background work of a node: it ends with the node, and a panic takes the work that it is in and nothing else.

use std::{
    fmt::Display,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;

/// The pause before a task that panicked is started again.
const RESTART: Duration = Duration::from_millis(250);

/// Starts tasks that end with the node. Clones belong to the same node.
#[derive(Clone, Default)]
pub(crate) struct Tasks {
    stop: CancellationToken,
}

impl Tasks {
    /// Ends all tasks, and those that are started later.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    /// Runs `task` until it returns or the node stops.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(self.until_stopped(task));
    }

    /// Makes `task` end with the node.
    pub(crate) fn until_stopped(
        &self,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> impl Future<Output: Send> + Send + 'static {
        self.stop.clone().run_until_cancelled_owned(task)
    }

    /// Runs the task that `start` makes until it returns or the node stops. One that panics is started again, 250 ms later.
    pub(crate) fn supervise<F>(
        &self,
        what: &'static str,
        mut start: impl FnMut() -> F + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        self.spawn(async move {
            while contain_async(what, "", start()).await.is_none() {
                tokio::time::sleep(RESTART).await;
            }
        });
    }
}

/// Runs `work`, and logs a panic in it: as `what`, of `subject`. Returns none if it panicked.
///
/// What `work` holds on to must be right after a panic too: locks here are held for single steps and don't poison.
pub(crate) fn contain<T>(
    what: &'static str,
    subject: impl Display,
    work: impl FnOnce() -> T,
) -> Option<T> {
    let done = catch_unwind(AssertUnwindSafe(work));
    done.map_err(|_| log(what, subject)).ok()
}

/// Awaits `work`, and logs a panic in it: as `what`, of `subject`. Returns none if it panicked.
pub(crate) async fn contain_async<T>(
    what: &'static str,
    subject: impl Display,
    work: impl Future<Output = T>,
) -> Option<T> {
    let done = AssertUnwindSafe(work).catch_unwind().await;
    done.map_err(|_| log(what, subject)).ok()
}

fn log(what: &'static str, subject: impl Display) {
    tracing::error!(%subject, "{what} panicked");
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_is_started_again_until_it_returns() {
        let runs = Arc::new(AtomicUsize::new(0));
        let (counted, (done, is_done)) = (runs.clone(), tokio::sync::oneshot::channel::<()>());
        let mut done = Some(done);
        Tasks::default().supervise("a test", move || {
            let run = counted.fetch_add(1, Ordering::SeqCst);
            let done = if run == 2 { done.take() } else { None };
            async move {
                assert!(done.is_some(), "injected");
                drop(done);
            }
        });
        is_done.await.ok();
        assert_eq!(runs.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn a_panic_answers_nothing() {
        assert_eq!(contain("a test", 1, || 7), Some(7));
        assert_eq!(contain("a test", 1, || panic!("injected")), None::<()>);
        assert_eq!(contain_async("a test", 1, async { 7 }).await, Some(7));
        let panics = async { panic!("injected") };
        assert_eq!(contain_async("a test", 1, panics).await, None::<()>);
    }
}
