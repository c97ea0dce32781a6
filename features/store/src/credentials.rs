//! Where credentials of stores come from, for checks and messages; the crate `object_store` reads
//! them.

use crate::url::Scheme;
use std::net::TcpStream;
use std::time::Duration;

/// Where a virtual machine of each of the three clouds finds credentials.
const METADATA_SERVICE: ([u8; 4], u16) = ([169, 254, 169, 254], 80);
const METADATA_TIMEOUT: Duration = Duration::from_secs(1);
/// Replaces the address of the metadata service.
const METADATA_VARIABLE: &str = "AWS_METADATA_ENDPOINT";
/// Where `gcloud auth application-default login` leaves credentials, below the home folder.
const GCLOUD_FILE: &str = ".config/gcloud/application_default_credentials.json";

/// Variables each of which names credentials, or says that there need be none.
fn variables(scheme: Scheme) -> &'static [&'static str] {
    match scheme {
        Scheme::S3 => &[
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_WEB_IDENTITY_TOKEN_FILE",
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            "AWS_SKIP_SIGNATURE",
        ],
        Scheme::Gs => &[
            "GOOGLE_APPLICATION_CREDENTIALS",
            "GOOGLE_SERVICE_ACCOUNT",
            "GOOGLE_SERVICE_ACCOUNT_PATH",
            "GOOGLE_SERVICE_ACCOUNT_KEY",
            "GOOGLE_SKIP_SIGNATURE",
            "SERVICE_ACCOUNT",
        ],
        Scheme::Az => &[
            "AZURE_STORAGE_ACCOUNT_KEY",
            "AZURE_STORAGE_ACCESS_KEY",
            "AZURE_STORAGE_MASTER_KEY",
            "AZURE_STORAGE_SAS_KEY",
            "AZURE_STORAGE_SAS_TOKEN",
            "AZURE_STORAGE_TOKEN",
            "AZURE_STORAGE_CLIENT_ID",
            "AZURE_CLIENT_ID",
            "AZURE_FEDERATED_TOKEN_FILE",
            "AZURE_MSI_ENDPOINT",
            "AZURE_USE_AZURE_CLI",
            "AZURE_SKIP_SIGNATURE",
            "AZURE_STORAGE_USE_EMULATOR",
        ],
        Scheme::Http => &[],
    }
}

/// Returns whether the user has named credentials. If not, only the metadata service of a cloud's
/// own machine has any.
pub(crate) fn are_named(scheme: Scheme) -> bool {
    let file = || std::env::home_dir().map(|home| home.join(GCLOUD_FILE));
    let is_set = |name: &&str| std::env::var_os(name).is_some();
    scheme == Scheme::Http
        || variables(scheme).iter().any(is_set)
        || (scheme == Scheme::Gs && file().is_some_and(|file| file.is_file()))
}

/// Returns whether this may be a cloud's own machine. `object_store` would wait for minutes for the
/// metadata service of a machine that has none.
pub(crate) fn is_metadata_service_there() -> bool {
    std::env::var_os(METADATA_VARIABLE).is_some()
        || TcpStream::connect_timeout(&METADATA_SERVICE.into(), METADATA_TIMEOUT).is_ok()
}

/// Returns what to set when there are no credentials.
pub(crate) fn to_set(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::S3 => {
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (files such as ~/.aws/credentials are not read), or AWS_SKIP_SIGNATURE=true for a public bucket"
        }
        Scheme::Gs => {
            "set GOOGLE_APPLICATION_CREDENTIALS, or GOOGLE_SKIP_SIGNATURE=true for a public bucket"
        }
        Scheme::Az => {
            "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or AZURE_SKIP_SIGNATURE=true for a public container"
        }
        Scheme::Http => "give another URL",
    }
}

/// Returns what to check when a store refuses access.
pub(crate) fn to_check(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::S3 => {
            "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, and that their owner may do this"
        }
        Scheme::Gs => "check GOOGLE_APPLICATION_CREDENTIALS, and that its account may do this",
        Scheme::Az => {
            "check AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, and that the account may do this"
        }
        Scheme::Http => "ask the server's owner for access, or give another URL",
    }
}
