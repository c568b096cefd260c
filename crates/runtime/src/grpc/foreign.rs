//! Requests that are not gRPC as it is spoken here, told so in words that their senders understand.

use http::{HeaderMap, Method, Request, Response, StatusCode, Version, header};
use tonic::{Status, body::Body};

/// Bytes of a path that are quoted.
const MAX_QUOTE: usize = 128;
/// The answer to what is no gRPC request.
pub(super) fn refuse<B>(request: &Request<B>) -> Option<Response<Body>> {
    if request.version() < Version::HTTP_2 {
        let says = "couponmesh speaks gRPC over HTTP/2 here, and no HTTP/1.1; \
                    try: grpcurl -plaintext HOST:PORT list\n";
        let mut response = plain(StatusCode::HTTP_VERSION_NOT_SUPPORTED, says);
        let close = header::HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
        return Some(response);
    }
    if request.method() != Method::POST {
        let mut response = plain(
            StatusCode::METHOD_NOT_ALLOWED,
            "gRPC requests are sent with POST\n",
        );
        let post = header::HeaderValue::from_static("POST");
        response.headers_mut().insert(header::ALLOW, post);
        return Some(response);
    }
    if !is_grpc(request.headers()) {
        let says = "the content-type of a gRPC request is application/grpc\n";
        return Some(plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, says));
    }
    None
}

/// The answer to a call of an RPC that does not exist.
pub(super) fn unknown(path: &str) -> Status {
    let quote: String = path.chars().take(MAX_QUOTE).collect();
    Status::unimplemented(format!(
        "no such method: {quote}; reflection lists what is served here"
    ))
}

/// `application/grpc`, alone or with the encoding of protobuf messages or parameters. Browsers may
/// not send it to other sites without asking, which is why nothing else is taken.
fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE);
    let content_type = content_type.and_then(|value| value.to_str().ok());
    let Some(subtype) = content_type.and_then(|text| text.strip_prefix("application/grpc")) else {
        return false;
    };
    let subtype = subtype.strip_prefix("+proto").unwrap_or(subtype);
    subtype.is_empty() || subtype.starts_with(';')
}

fn plain(code: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::new(http_body_util::Full::from(text)));
    *response.status_mut() = code;
    let content_type = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    response
}
