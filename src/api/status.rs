//! The one place where a [`Kind`] becomes an HTTP status; `GET /api/v1/errors` and docs/errors.md
//! are made of the same table.

use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::Kind;

/// What the tus protocol answers to a part whose checksum does not fit.
const TUS_CHECKSUM_MISMATCH: StatusCode = match StatusCode::from_u16(460) {
    Ok(status) => status,
    Err(_) => StatusCode::BAD_REQUEST,
};

/// The status of every kind. The match is exhaustive: a new kind does not compile without a row.
pub const fn status(kind: Kind) -> StatusCode {
    match kind {
        Kind::InvalidRequest | Kind::InvalidName | Kind::InvalidCursor => StatusCode::BAD_REQUEST,
        Kind::Unauthorized => StatusCode::UNAUTHORIZED,
        Kind::Forbidden => StatusCode::FORBIDDEN,
        Kind::RouteNotFound
        | Kind::VmNotFound
        | Kind::DiskNotFound
        | Kind::PoolNotFound
        | Kind::VolumeNotFound
        | Kind::NetworkNotFound
        | Kind::IsoNotFound
        | Kind::TemplateNotFound
        | Kind::DefinitionNotFound
        | Kind::UploadNotFound
        | Kind::TaskNotFound => StatusCode::NOT_FOUND,
        Kind::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        Kind::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
        Kind::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
        Kind::VmAlreadyExists
        | Kind::VmAlreadyRunning
        | Kind::VmAlreadyStopped
        | Kind::VmAlreadyPaused
        | Kind::VmRunning
        | Kind::VmNotRunning
        | Kind::VmWrongState
        | Kind::VmBusy
        | Kind::VmHasSnapshots
        | Kind::VmHasSavedState
        | Kind::VmHasNoSavedState
        | Kind::VmTransient
        | Kind::VolumeAlreadyExists
        | Kind::VolumeInUse
        | Kind::MacInUse
        | Kind::VolumeBusy
        | Kind::PoolBusy
        | Kind::NetworkBusy
        | Kind::IsoBusy
        | Kind::IsoAlreadyExists
        | Kind::IsoInUse
        | Kind::TemplateBusy
        | Kind::TemplateAlreadyExists
        | Kind::TemplateInUse
        | Kind::DriveEmpty
        | Kind::MediumAlreadyInserted
        | Kind::MediumLocked
        | Kind::PoolAlreadyExists
        | Kind::PoolConflict
        | Kind::PoolActive
        | Kind::PoolInUse
        | Kind::PoolNotEmpty
        | Kind::PoolInactive
        | Kind::NetworkInactive
        | Kind::UploadOffsetMismatch
        | Kind::NetworkAlreadyExists
        | Kind::NetworkAlreadyActive
        | Kind::NetworkInUse
        | Kind::NetworkConflict
        | Kind::TaskNotCancellable
        | Kind::TaskFinished
        | Kind::Cancelled
        | Kind::Interrupted => StatusCode::CONFLICT,
        Kind::PreconditionFailed | Kind::TusVersionUnsupported => StatusCode::PRECONDITION_FAILED,
        Kind::RangeNotSatisfiable => StatusCode::RANGE_NOT_SATISFIABLE,
        Kind::UploadBusy => StatusCode::LOCKED,
        Kind::ChecksumMismatch => TUS_CHECKSUM_MISMATCH,
        Kind::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Kind::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        // What libvirt refused was understood and could not be done: never a defect of ours.
        Kind::GuestAgentUnavailable
        | Kind::NotSupported
        | Kind::Impossible
        | Kind::InvalidDefinition
        | Kind::NotAnIso
        | Kind::InsufficientSpace
        | Kind::ImageRefused
        | Kind::DigestMismatch
        | Kind::LibvirtRefused
        | Kind::IdempotencyKeyReused => StatusCode::UNPROCESSABLE_ENTITY,
        Kind::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
        Kind::LibvirtUnavailable | Kind::DatabaseUnavailable | Kind::ShuttingDown => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        Kind::GuestTimeout | Kind::LibvirtTimeout => StatusCode::GATEWAY_TIMEOUT,
        Kind::Config | Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// One row of the catalogue.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CatalogueEntry {
    /// The stable code.
    #[schema(example = "VM_NOT_FOUND")]
    pub code: &'static str,
    /// The HTTP status it is answered with.
    #[schema(minimum = 400, maximum = 599)]
    pub status: u16,
    /// When it is answered.
    pub meaning: &'static str,
    /// What a caller can do, where the reply knows nothing better.
    pub hint: &'static str,
}

/// The whole catalogue, in the order of [`Kind::ALL`].
pub fn catalogue() -> Vec<CatalogueEntry> {
    Kind::ALL
        .iter()
        .map(|&kind| CatalogueEntry {
            code: kind.code(),
            status: status(kind).as_u16(),
            meaning: kind.meaning(),
            hint: kind.hint(),
        })
        .collect()
}

/// The text of docs/errors.md.
pub fn catalogue_markdown() -> String {
    let mut text = String::from(
        "# Errors\n\n\
         Every failure is `{\"status\":\"error\",\"error\":{\"code\",\"message\",\"details\",\"hint\",\"request_id\"}}`.\n\
         Programs should go by `code`: it is stable, while messages may be reworded. With\n\
         `Accept: application/problem+json` the same is answered as RFC 9457. This page is made from\n\
         the code's catalogue, which the daemon serves at `GET /api/v1/errors`; do not edit it by hand.\n\n\
         | code | status | when | what to do |\n| --- | --- | --- | --- |\n",
    );
    for entry in catalogue() {
        let cell = |text: &str| text.replace('|', "\\|");
        text.push_str(&format!(
            "| `{}` | {} | {} | {} |\n",
            entry.code,
            entry.status,
            cell(entry.meaning),
            cell(entry.hint)
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_defects_are_500() {
        let defects: Vec<_> = Kind::ALL
            .iter()
            .filter(|kind| status(**kind) == StatusCode::INTERNAL_SERVER_ERROR)
            .collect();
        assert_eq!(defects, [&Kind::Config, &Kind::Internal]);
    }

    #[test]
    fn what_is_not_found_says_so_in_code_and_status() {
        for &kind in Kind::ALL {
            let named = kind.code().ends_with("_NOT_FOUND");
            assert_eq!(named, status(kind) == StatusCode::NOT_FOUND, "{}", kind.code());
        }
    }

    #[test]
    fn every_status_is_one_of_the_contract() {
        let contract = [
            400, 401, 403, 404, 405, 406, 408, 409, 412, 413, 415, 416, 422, 423, 429, 460, 500,
            503, 504,
        ];
        for entry in catalogue() {
            assert!(contract.contains(&entry.status), "{} is {}", entry.code, entry.status);
        }
    }

    #[test]
    fn the_page_has_a_row_for_every_kind() {
        let page = catalogue_markdown();
        for kind in Kind::ALL {
            assert!(page.contains(&format!("| `{}` | {} |", kind.code(), status(*kind).as_u16())));
        }
    }
}
