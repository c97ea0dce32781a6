//! Files of Google Drive. Large ones are behind a page that asks for a confirmation, because no
//! scanner has looked at them.

use super::run::Run;
use crate::client::Request;
use crate::error::{Error, Kind};

/// The longest page that is read.
const MAX_PAGE: u64 = 4 << 20;

/// The page of a file that too many have fetched today.
const QUOTA: [&str; 2] = ["too many users have viewed or downloaded", "quota exceeded"];
/// The pages of a file that does not exist any more or is private.
const UNAVAILABLE: [&str; 4] = [
    "does not exist",
    "you need access",
    "file is in the trash",
    "accounts.google.com/v3/signin",
];

/// Returns the request for a file that `address` names: the same one, or that behind the page that
/// asks for a confirmation.
///
/// # Errors
/// The server answers with another page.
pub fn confirm(run: &Run, address: &str) -> Result<Request, Error> {
    // One byte shows whether a file comes or a page.
    let probe = Request::get(address).header("range", "bytes=0-0");
    let is_page = |kind: Option<&str>| kind.is_some_and(|kind| kind.starts_with("text/html"));
    if !is_page(run.client.send(&probe)?.header("content-type")) {
        return Ok(Request::get(address));
    }
    let page = run.client.text(&Request::get(address), MAX_PAGE)?;
    let confirmed = form_address(&page, address).ok_or_else(|| refusal(&page, address, run))?;
    let probe = Request::get(&confirmed).header("range", "bytes=0-0");
    let response = run.client.send(&probe)?;
    if is_page(response.header("content-type")) {
        drop(response);
        let page = run.client.text(&Request::get(&confirmed), MAX_PAGE)?;
        return Err(refusal(&page, address, run));
    }
    Ok(Request::get(confirmed))
}

/// Names what a page says.
fn refusal(page: &str, address: &str, run: &Run) -> Error {
    let lower = page.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|words| lower.contains(words));
    let by_hand = run.sources.by_hand;
    if has(&QUOTA) {
        let message = format!(
            "Google Drive says that too many have fetched the file today; try again in 24 hours, or by hand: {by_hand}"
        );
        return Error::new(address, Kind::Temporary(None), message);
    }
    if has(&UNAVAILABLE) {
        let message = format!(
            "Google Drive has no such file any more, or not for everybody; name another copy by --source, or try by hand: {by_hand}"
        );
        return Error::new(address, Kind::NotFound, message);
    }
    let title = between(page, "<title>", "</title>")
        .unwrap_or("no title")
        .trim();
    let title: String = title.chars().take(100).collect();
    let message = format!("the answer is a page ({title:?}) and not the file; by hand: {by_hand}");
    Error::new(address, Kind::Refused, message)
}

/// Returns where the form of a confirm page leads to: its action, with its hidden fields as the
/// query.
fn form_address(page: &str, address: &str) -> Option<String> {
    let start = page.find("id=\"download-form\"")?;
    let start = page[..start].rfind("<form")?;
    let form = page[start..].split("</form>").next()?;
    let (tag, inputs) = form.split_once('>')?;
    let action = attribute(tag, "action")?;
    let mut url = reqwest::Url::parse(address).ok()?.join(&action).ok()?;
    for input in inputs.split("<input").skip(1) {
        let tag = input.split('>').next()?;
        if attribute(tag, "type").as_deref() != Some("hidden") {
            continue;
        }
        if let (Some(name), Some(value)) = (attribute(tag, "name"), attribute(tag, "value")) {
            url.query_pairs_mut().append_pair(&name, &value);
        }
    }
    Some(url.into())
}

/// Returns the value of a tag's attribute.
fn attribute(tag: &str, name: &str) -> Option<String> {
    let value = between(tag, &format!(" {name}=\""), "\"")?;
    Some(html_escape::decode_html_entities(value).into_owned())
}

fn between<'a>(text: &'a str, before: &str, behind: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    Some(rest.split_once(behind)?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_of_a_confirm_page_is_followed() {
        let page = r#"<html><body><form id="download-form" action="https://drive.usercontent.google.com/download" method="get">
            <input type="submit" id="uc-download-link" value="Download anyway"/>
            <input type="hidden" name="id" value="1Fj"><input type="hidden" name="confirm" value="t">
            <input type="hidden" name="uuid" value="a&amp;b"></form></body></html>"#;
        let address = "https://drive.google.com/uc?id=1Fj";
        assert_eq!(
            form_address(page, address).unwrap(),
            "https://drive.usercontent.google.com/download?id=1Fj&confirm=t&uuid=a%26b"
        );
        assert_eq!(form_address("<html></html>", address), None);
    }
}
