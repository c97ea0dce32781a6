//! Connections to object stores: one client for each bucket, and the runtime that they share.

use crate::connector::Connector;
use crate::credentials;
use crate::failure::{incomplete, without_credentials};
use crate::url::{Scheme, Url};
use media::Error;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::multipart::MultipartStore;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Semaphore, SemaphorePermit};

/// The environment variable for how many seconds a request is repeated before it fails.
pub const TIMEOUT_VARIABLE: &str = "U2A_STORE_TIMEOUT";
/// Its default: longer than a server takes to restart.
const TIMEOUT: Duration = Duration::from_secs(120);
/// The longest that one request may take. Requests and parts have at most 8 MiB.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest pause before a request is repeated.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Threads for connections and TLS; the callers' threads wait for them.
const RUNTIME_THREADS: usize = 2;
/// The requests that one process has in flight at most.
const REQUESTS: usize = 32;
/// The client of a bucket.
pub(crate) struct Client {
    pub store: Arc<dyn ObjectStore>,
    /// The interface for uploads in parts; web servers have none.
    pub multipart: Option<Arc<dyn MultipartStore>>,
}

/// Runs requests to their end.
///
/// # Errors
/// The runtime cannot start its threads.
pub(crate) fn run<F: Future>(requests: F) -> Result<F::Output, Error> {
    static RUNTIME: OnceLock<Result<Runtime, String>> = OnceLock::new();
    let start = || {
        Builder::new_multi_thread()
            .worker_threads(RUNTIME_THREADS)
            .thread_name("store")
            .enable_all()
            .build()
            .map_err(|e| e.to_string())
    };
    match RUNTIME.get_or_init(start) {
        Ok(runtime) => Ok(runtime.block_on(requests)),
        Err(error) => Err(Error::unusable(
            format!("the threads for network requests cannot be started: {error}"),
            "raise the limit of processes (ulimit -u)",
        )),
    }
}

/// Waits until this process has few enough requests in flight for another one.
pub(crate) async fn permit() -> SemaphorePermit<'static> {
    static PERMITS: Semaphore = Semaphore::const_new(REQUESTS);
    PERMITS
        .acquire()
        .await
        .expect("nobody closes the semaphore")
}

/// Returns the client for a URL's bucket, which all folders of the bucket share.
///
/// # Errors
/// The settings in the environment are invalid or incomplete.
pub(crate) fn client(url: &Url) -> Result<Arc<Client>, Error> {
    static CLIENTS: Mutex<BTreeMap<String, Arc<Client>>> = Mutex::new(BTreeMap::new());
    // A panic while a client was made left the map as it was.
    let mut clients = CLIENTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(client) = clients.get(&url.root) {
        return Ok(client.clone());
    }
    check_credentials(url)?;
    let client = Arc::new(connect(url)?);
    clients.insert(url.root.clone(), client.clone());
    Ok(client)
}

/// Creates the client of a bucket; it connects with the first request.
fn connect(url: &Url) -> Result<Client, Error> {
    let timeout = timeout()?;
    let retry = RetryConfig {
        retry_timeout: timeout,
        // The time limits them.
        max_retries: usize::MAX,
        backoff: BackoffConfig {
            max_backoff: LONGEST_PAUSE,
            ..BackoffConfig::default()
        },
    };
    let limits = |options: ClientOptions| {
        options
            .with_timeout(REQUEST_TIMEOUT.min(timeout))
            .with_connect_timeout(CONNECT_TIMEOUT.min(timeout))
    };
    let build_error = |e| incomplete(url, &e);
    Ok(match url.scheme {
        Scheme::S3 => {
            let builder = AmazonS3Builder::from_env()
                .with_http_connector(Connector)
                .with_bucket_name(url.host())
                .with_retry(retry);
            let options = client_options("AWS_", limits);
            with_parts(
                builder
                    .with_client_options(options)
                    .build()
                    .map_err(build_error)?,
            )
        }
        Scheme::Gs => {
            let builder = GoogleCloudStorageBuilder::from_env()
                .with_http_connector(Connector)
                .with_bucket_name(url.host())
                .with_retry(retry);
            let options = client_options("GOOGLE_", limits);
            with_parts(
                builder
                    .with_client_options(options)
                    .build()
                    .map_err(build_error)?,
            )
        }
        Scheme::Az => {
            let builder = MicrosoftAzureBuilder::from_env()
                .with_http_connector(Connector)
                .with_container_name(url.host())
                .with_retry(retry);
            let options = client_options("AZURE_", limits);
            with_parts(
                builder
                    .with_client_options(options)
                    .build()
                    .map_err(build_error)?,
            )
        }
        Scheme::Http => {
            let options = limits(ClientOptions::new().with_allow_http(true));
            let builder = HttpBuilder::new()
                .with_http_connector(Connector)
                .with_url(&url.root)
                .with_retry(retry)
                .with_client_options(options);
            Client {
                store: Arc::new(builder.build().map_err(build_error)?),
                multipart: None,
            }
        }
    })
}

fn with_parts<S: ObjectStore + MultipartStore>(store: S) -> Client {
    let store = Arc::new(store);
    Client {
        store: store.clone(),
        multipart: Some(store),
    }
}

/// Returns the options of connections, with those that the environment names: `AWS_ALLOW_HTTP`,
/// `AWS_PROXY_URL` and so on. They replace those that a builder has read from the environment.
fn client_options(prefix: &str, limits: impl Fn(ClientOptions) -> ClientOptions) -> ClientOptions {
    let mut options = limits(ClientOptions::new());
    for (name, value) in std::env::vars() {
        let key = name.strip_prefix(prefix).map(str::to_ascii_lowercase);
        if let Some(key) = key.and_then(|key| key.parse().ok()) {
            options = options.with_config(key, value);
        }
    }
    options
}

/// Returns how long requests are repeated.
fn timeout() -> Result<Duration, Error> {
    let Ok(value) = std::env::var(TIMEOUT_VARIABLE) else {
        return Ok(TIMEOUT);
    };
    match value.parse() {
        Ok(seconds @ 1..=86_400) => Ok(Duration::from_secs(seconds)),
        _ => Err(Error::unusable(
            format!("{TIMEOUT_VARIABLE}={value}: is no number of seconds"),
            "give a number from 1 to 86400",
        )),
    }
}

/// Checks that there is a source of credentials.
fn check_credentials(url: &Url) -> Result<(), Error> {
    match credentials::are_named(url.scheme) || credentials::is_metadata_service_there() {
        true => Ok(()),
        false => Err(without_credentials(url)),
    }
}
