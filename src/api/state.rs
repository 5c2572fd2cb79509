//! What every layer and handler of one daemon shares.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::meters::Meters;
use crate::error::{Error, Result};
use crate::service::Services;

/// Bounds of what clients may ask of the daemon. `[limits]` of vapor.conf.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a request body.
    pub body_bytes: usize,
    /// Open connections per listener.
    pub max_connections: usize,
    /// How long a request's head may take to arrive, and how long a connection may idle.
    pub header_timeout: Duration,
    /// How long a request's body may take to arrive.
    pub body_timeout: Duration,
    /// How long a request may take apart from the time the client asked to wait.
    pub request_timeout: Duration,
    /// The longest that a reply waits for an operation or for events, whatever the client prefers.
    pub max_wait: Duration,
    /// How long a client may take no byte of its reply.
    pub stall_timeout: Duration,
    /// How long open requests and mutations get when the daemon stops.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            body_bytes: 1 << 20,
            max_connections: 512,
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(60),
            max_wait: super::MAX_WAIT,
            stall_timeout: Duration::from_secs(60),
            grace: Duration::from_secs(30),
        }
    }
}

/// What the layers need: everything but the services.
#[derive(Default)]
pub struct Core {
    limits: ArcSwap<Limits>,
    pub meters: Meters,
    /// Mutations under way, which outlive the connections that asked for them.
    pub mutations: TaskTracker,
    /// Cancelled when the daemon stops: streams and long polls end, connections are not kept.
    pub stopping: CancellationToken,
}

impl Core {
    /// A core with these limits.
    pub fn new(limits: Limits) -> Core {
        Core { limits: ArcSwap::from_pointee(limits), ..Core::default() }
    }

    /// The limits that hold now.
    pub fn limits(&self) -> Arc<Limits> {
        self.limits.load_full()
    }

    /// Other limits from now on: for requests and connections to come, and for the next stop.
    pub fn set_limits(&self, limits: Limits) {
        self.limits.store(Arc::new(limits));
    }
}

/// The state of the router: one handle, cheap to clone.
#[derive(Clone)]
pub struct Api(Arc<Inner>);

struct Inner {
    core: Arc<Core>,
    services: Services,
}

impl Api {
    /// The API of these services.
    pub fn new(core: Arc<Core>, services: Services) -> Self {
        Api(Arc::new(Inner { core, services }))
    }

    /// What the layers share.
    pub fn core(&self) -> &Arc<Core> {
        &self.0.core
    }

    /// The use cases.
    pub fn services(&self) -> &Services {
        &self.0.services
    }

    /// Runs a mutation apart from the connection: a client that hangs up cancels nothing.
    ///
    /// # Errors
    /// Those of `work`; [`crate::error::Kind::Internal`] if it panicked.
    pub async fn detached<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let running = self.core().mutations.spawn(work.in_current_span());
        running.await.unwrap_or_else(|gone| {
            self.core().meters.panicked();
            Err(Error::internal(format!("a mutation ended without a result: {gone}")))
        })
    }
}
