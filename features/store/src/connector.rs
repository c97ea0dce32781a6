//! Connections that repeat a request which was never sent.
//!
//! A server that restarts closes the connections that wait for their next request. If hyper notices
//! that only when it takes such a connection, it reports the request as canceled before anything
//! was sent. `object_store` 0.13 counts that error among those of unknown kind, which it does not
//! repeat; here it gets the kind of an interrupted connection, which it does.

use async_trait::async_trait;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
    ReqwestConnector,
};

/// Makes the HTTP clients of all stores.
#[derive(Debug)]
pub(crate) struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(UnsentIsRepeated(client)))
    }
}

/// An HTTP client whose errors say whether a request was sent at all.
#[derive(Debug)]
struct UnsentIsRepeated(HttpClient);

#[async_trait]
impl HttpService for UnsentIsRepeated {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let response = self.0.execute(request).await;
        response.map_err(|error| match was_never_sent(&error) {
            true => HttpError::new(HttpErrorKind::Request, error),
            false => error,
        })
    }
}

/// Returns whether hyper canceled the request before it sent anything.
fn was_never_sent(error: &HttpError) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        let error_of_hyper = error.downcast_ref::<hyper::Error>();
        if error_of_hyper.is_some_and(hyper::Error::is_canceled) {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::rt::{Read, ReadBufCursor, Write};
    use std::future::Future;
    use std::io;
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    /// A connection to a server that never answers.
    struct Silent;

    impl Read for Silent {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: ReadBufCursor<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl Write for Silent {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// Returns the result of a future that waits for nothing.
    fn ready<T>(future: impl Future<Output = T>) -> T {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => value,
            Poll::Pending => panic!("it waits"),
        }
    }

    #[derive(Debug)]
    struct Fails(fn() -> HttpError);

    #[async_trait]
    impl HttpService for Fails {
        async fn call(&self, _: HttpRequest) -> Result<HttpResponse, HttpError> {
            Err((self.0)())
        }
    }

    /// The error of a request on a connection that is closed already.
    fn never_sent() -> HttpError {
        let handshake = hyper::client::conn::http1::handshake::<_, String>(Silent);
        let (mut sender, connection) = ready(handshake).unwrap();
        drop(connection);
        let request = hyper::Request::new(String::new());
        let error = ready(sender.send_request(request)).unwrap_err();
        HttpError::new(HttpErrorKind::Unknown, error)
    }

    fn sent_and_lost() -> HttpError {
        let error = io::Error::new(io::ErrorKind::InvalidData, "half an answer");
        HttpError::new(HttpErrorKind::Unknown, error)
    }

    #[test]
    fn only_a_request_that_was_never_sent_is_repeated() {
        for (fails, kind) in [
            (never_sent as fn() -> HttpError, HttpErrorKind::Request),
            (sent_and_lost, HttpErrorKind::Unknown),
        ] {
            let client = UnsentIsRepeated(HttpClient::new(Fails(fails)));
            let request = HttpRequest::new(bytes::Bytes::new().into());
            let error = ready(client.call(request)).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
        }
    }
}
