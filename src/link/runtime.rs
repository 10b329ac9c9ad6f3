//! The runtime of the links to Redis: a thread of its own, beside the runtime that serves clients.
//!
//! On a node that is saturated each step of a task waits for its turn behind thousands of others, and a call to Redis is several
//! steps: written, read, handed to its caller. With the steps of the connections in that queue too, calls and PINGs are late
//! by the node's own doing: it takes Redis for dead and refuses newcomers, who come again. Measured with 8,000 clients that come
//! at once to two starved nodes (debug builds, two busy cores): all are in after 14 to 21 s instead of 86 to 126 s, at 44 to 227
//! refusals instead of 19,000, and no heartbeat fails instead of 350.
//!
//! What needs the links step by step may run here too ([`RedisRuntime::spawn`]), as long as its turns are few and short.

use std::{fmt, sync::Arc};

use tokio::{
    runtime::{Builder, Handle, Runtime},
    task::JoinHandle,
};
use tokio_util::context::TokioContext;

use super::LinkError;

/// A runtime of one thread, for connections to Redis. Clones share it; it ends with the last one.
#[derive(Clone)]
pub struct RedisRuntime(Arc<Owned>);

struct Owned {
    handle: Handle,
    runtime: Option<Runtime>,
}

impl RedisRuntime {
    /// Starts the thread.
    pub(super) fn start() -> Result<Self, LinkError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("redis-links")
            .enable_all()
            .build()
            .map_err(|error| LinkError::Config(format!("no thread for the links: {error}")))?;
        Ok(Self(Arc::new(Owned {
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
        })))
    }

    /// Returns the handle that spawns tasks on this runtime.
    pub fn handle(&self) -> &Handle {
        &self.0.handle
    }

    /// Runs `work` on the thread of this runtime. Its timers, and the tasks that it begins, are those of the caller's runtime.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime.
    pub fn spawn<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let work = TokioContext::new(work, Handle::current());
        self.0.handle.spawn(work)
    }

    /// Polls `work` on the caller's thread with this runtime's timers and I/O.
    pub fn enter<F: Future>(&self, work: F) -> TokioContext<F> {
        TokioContext::new(work, self.0.handle.clone())
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // Waits for nothing: the last clone may be one of a task, there or on the other runtime.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl fmt::Debug for RedisRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisRuntime").finish_non_exhaustive()
    }
}
