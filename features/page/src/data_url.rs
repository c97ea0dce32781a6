use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Returns a `data:` URL (RFC 2397) with the bytes of a file.
pub fn data_url(media_type: &str, bytes: &[u8]) -> String {
    format!("data:{media_type};base64,{}", STANDARD.encode(bytes))
}
