//! The API's document and its browsable page. The document is collected from the handlers by the router that serves them,
//! and frozen by a snapshot; what all handlers share (problems, security, tags) is here.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Router, extract::Path, middleware, response::Response, routing::get};
use http::{HeaderValue, header};
use serde_json::json;
use utoipa::{
    IntoResponses, OpenApi,
    openapi::{
        Content, Ref, RefOr, ResponseBuilder,
        header::HeaderBuilder,
        response,
        schema::{ObjectBuilder, Type},
        security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};
use utoipa_swagger_ui::Config;

use super::{
    cookie,
    error::{ApiError, ErrorCode, Problem},
};

/// Where the document is.
const DOCUMENT: &str = "/v1/openapi.json";

/// Where the page is.
const PAGE: &str = "/v1/docs";

/// The file that the page is.
const INDEX: &str = "index.html";

/// What the head of the page begins with where its files are one level below.
const BASED_HEAD: &str = "<head>\n    <base href=\"docs/\">";

/// What the page may load, from where: itself only. Swagger UI styles elements in place and has its icons as `data:`.
const PAGE_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'",
);

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Switchboard",
        description = "Reach, list or remove the users of a Socket.IO fleet, on whatever node they are.\n\n\
            Errors are RFC 9457 problems with a stable `code`.",
    ),
    tags(
        (name = "send", description = "Events for clients. Scope `send`"),
        (name = "presence", description = "Who is online, from the registry: no other node is asked. Scope `read`"),
        (name = "disconnect", description = "The end of connections. Scope `disconnect`"),
        (name = "access", description = "Bans and revoked tokens. Scope `disconnect`"),
        (name = "sessions", description = "Tokens, refreshed with a cookie; where the node holds a key to sign them with"),
        (name = "cluster", description = "The fleet. Scope `read`"),
        (name = "operations", description = "For orchestrators and Prometheus"),
    ),
    components(schemas(Problem)),
)]
struct Base;

/// What the handlers' parts of the document are added to.
pub fn base() -> utoipa::openapi::OpenApi {
    let mut document = Base::openapi();
    let components = document.components.get_or_insert_default();
    let scheme = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some(
            "An API key, or a JWT that the namespace `/admin` lets in, unless `api.jwt` is false. A key has scopes; `admin` holds them all.",
        ))
        .build();
    components
        .security_schemes
        .insert("key".into(), SecurityScheme::Http(scheme));
    let cookie = ApiKeyValue::with_description(cookie::NAME, "A session's; each is good once.");
    components.security_schemes.insert(
        "cookie".into(),
        SecurityScheme::ApiKey(ApiKey::Cookie(cookie)),
    );
    for (name, description, error) in problems() {
        components
            .responses
            .insert(name.into(), problem(description, error).into());
    }
    document
}

/// Name, meaning and an example of every problem that handlers answer with.
fn problems() -> [(&'static str, &'static str, ApiError); 14] {
    let error = ApiError::new;
    [
        (
            "Malformed",
            "Not JSON, a wrong type, a missing or an unknown field, a bad cursor",
            error(
                ErrorCode::Malformed,
                "event: invalid type: integer `5`, expected a string at line 1 column 10",
            ),
        ),
        (
            "Unauthorized",
            "No key or token, or one that is not valid (any more): the detail of a token that was revoked, or whose user is \
             banned, says so",
            ApiError::unauthorized(),
        ),
        (
            "Forbidden",
            "The key or token lacks the scope",
            error(ErrorCode::Forbidden, "this call needs the scope \"send\""),
        ),
        (
            "UnknownConnection",
            "No such connection, or no longer",
            error(ErrorCode::UnknownConnection, "no such connection"),
        ),
        (
            "NoSessions",
            "The node holds no key to sign tokens with",
            error(
                ErrorCode::NotFound,
                "this node holds no key to sign tokens with, and keeps no sessions",
            ),
        ),
        (
            "NoRefreshToken",
            "No cookie, or one that is not good: used before, or of a session that is over",
            error(
                ErrorCode::MissingRefreshToken,
                "no cookie refreshToken: log in",
            ),
        ),
        (
            "ForbiddenOrigin",
            "A page of an origin that may not use the user's cookies",
            error(
                ErrorCode::ForbiddenOrigin,
                "pages of this origin may not; cors.allowed_origins says which may",
            ),
        ),
        (
            "Repeated",
            "The first call with this `Idempotency-Key` is under way, or its answer was too large to be kept",
            error(
                ErrorCode::CallUnderWay,
                "the first call with this Idempotency-Key is under way",
            ),
        ),
        (
            "PayloadTooLarge",
            "The body, or an event's data, is too large",
            error(
                ErrorCode::PayloadTooLarge,
                "data: may have 1000000 bytes as JSON",
            ),
        ),
        (
            "Unprocessable",
            "Well-formed, and not acceptable",
            error(
                ErrorCode::ReservedEvent,
                "event: \"connect\" is Socket.IO's own",
            ),
        ),
        (
            "RateLimited",
            "The key calls more often than `api.rate` allows, or the caller's address calls or has failed to authenticate too \
             often. Nothing was done",
            error(
                ErrorCode::RateLimited,
                "this address has failed to authenticate too often; try again in a moment",
            ),
        ),
        (
            "Internal",
            "A fault of the server's own",
            error(ErrorCode::Internal, "an internal error; the log says more"),
        ),
        (
            "Unavailable",
            "Redis can't be reached. What was to be sent has reached nobody, on no node: it is safe to repeat. Anything else may or \
             may not have happened. With the code `overloaded` the node has as many calls in flight as it may, and nothing was done",
            ApiError::unavailable(),
        ),
        (
            "OutcomeUnknown",
            "Redis has left it unanswered, or the call took too long: it may or may not have happened",
            ApiError::outcome_unknown(),
        ),
    ]
}

fn problem(description: &str, error: ApiError) -> response::Response {
    let status = error.code.status().as_u16();
    let mut content = Content::new(Some(Ref::from_schema_name("Problem")));
    content.example = Some(json!(Problem::from(error)));
    let mut builder = ResponseBuilder::new()
        .description(description)
        .content("application/problem+json", content);
    let announced = match status {
        401 => Some(("WWW-Authenticate", Type::String, "The scheme: `Bearer`")),
        429 | 503 => Some(("Retry-After", Type::Integer, "Seconds")),
        _ => None,
    };
    if let Some((name, kind, description)) = announced {
        let schema = ObjectBuilder::new().schema_type(kind).build();
        let header = HeaderBuilder::new()
            .schema(schema)
            .description(Some(description))
            .build();
        builder = builder.header(name, header);
    }
    builder.build()
}

macro_rules! problem_sets {
    ($($(#[$doc:meta])* $set:ident = $($status:literal $name:literal),*;)*) => {
        $(
            $(#[$doc])*
            pub struct $set;

            impl IntoResponses for $set {
                fn responses() -> BTreeMap<String, RefOr<response::Response>> {
                    [$(($status.to_owned(), RefOr::Ref(Ref::from_response_name($name)))),*].into()
                }
            }
        )*
    };
}

problem_sets! {
    /// The problems of every call that asks for a key.
    Guarded = "401" "Unauthorized", "403" "Forbidden", "429" "RateLimited", "500" "Internal", "503" "Unavailable", "504" "OutcomeUnknown";
    /// Those of calls with a user in the path, or with a query.
    HeadProblems = "400" "Malformed", "422" "Unprocessable";
    /// Those of calls with a body.
    BodyProblems = "400" "Malformed", "413" "PayloadTooLarge", "422" "Unprocessable";
    /// Those of calls about one connection.
    ConnectionProblems = "400" "Malformed", "404" "UnknownConnection";
    /// That of calls that need a signing key.
    SessionProblems = "404" "NoSessions";
    /// Those of a refresh.
    RefreshProblems = "401" "NoRefreshToken", "403" "ForbiddenOrigin", "404" "NoSessions", "429" "RateLimited",
        "500" "Internal", "503" "Unavailable", "504" "OutcomeUnknown";
    /// Those of a logout.
    LogoutProblems = "403" "ForbiddenOrigin", "404" "NoSessions", "429" "RateLimited", "500" "Internal",
        "503" "Unavailable", "504" "OutcomeUnknown";
}

/// The document and the page, open to everybody: they say nothing that the source does not.
pub fn pages<S: Clone + Send + Sync + 'static>(document: &utoipa::openapi::OpenApi) -> Router<S> {
    let text: axum::body::Bytes = json!(document).to_string().into();
    let json = move || async move { ([(header::CONTENT_TYPE, "application/json")], text.clone()) };
    // Swagger UI would send the document to a validator on the internet, and keep keys that were typed in.
    let config = Config::from(DOCUMENT)
        .validator_url("none")
        .persist_authorization(false);
    let config = Arc::new(config);
    let of = config.clone();
    let file = move |Path(file): Path<String>| async move { page_file(&file, of) };
    let of = config.clone();
    let index = move || async move { page_file(INDEX, of) };
    // The page names its files by paths relative to itself: one level up they need a base. Relative as well, it holds behind
    // a proxy that adds a prefix.
    let based = move || async move {
        page_file(INDEX, config).map(|(kind, page)| {
            let page = String::from_utf8_lossy(&page).replacen("<head>", BASED_HEAD, 1);
            (kind, page.into_bytes())
        })
    };
    let page = Router::new()
        .route(PAGE, get(based))
        .route(&format!("{PAGE}/"), get(index))
        .route(&format!("{PAGE}/{{*file}}"), get(file))
        .layer(middleware::map_response(async |mut response: Response| {
            response
                .headers_mut()
                .insert(header::CONTENT_SECURITY_POLICY, PAGE_POLICY);
            response
        }));
    Router::new().route(DOCUMENT, get(json)).merge(page)
}

/// A file of the page, behind its content type.
type PageFile = ([(header::HeaderName, String); 1], Vec<u8>);

fn page_file(name: &str, config: Arc<Config<'static>>) -> Result<PageFile, ApiError> {
    match utoipa_swagger_ui::serve(name, config) {
        Ok(Some(file)) => Ok((
            [(header::CONTENT_TYPE, file.content_type)],
            file.bytes.into_owned(),
        )),
        Ok(None) => Err(ApiError::new(ErrorCode::NotFound, "no such page")),
        Err(error) => {
            tracing::error!(%error, "the API's page could not be put together");
            Err(ApiError::new(
                ErrorCode::Internal,
                "an internal error; the log says more",
            ))
        }
    }
}
