//! Where a path leads.
//!
//! 1. Below `/-/` there are pages about the node, and nothing else.
//! 2. The pages that monitors ask have their places at the root, unless a program is mounted there.
//! 3. A path belongs to the application with the longest route prefix that matches. A program gets
//!    the request as it is; for models their routes lie below the prefix.
//! 4. Where no application is mounted, the routes of all models are found at the root.
//! 5. `/` itself is the chat page, where there is a model and no program has the root.

use crate::chat;
use crate::reply::Dialect;
use crate::stream::EventStream;
use http::Method;
use tyndall_openai::Wanted;
use tyndall_router::{Mount, Router, Scope};

/// What answers a request.
#[derive(Debug)]
pub(crate) enum Target<'a> {
    /// A page about the node.
    Node(NodePage),
    /// A route of models.
    Models(Route<'a>, Scope),
    /// A program.
    Program(Mount),
    /// The chat page.
    ChatPage,
    /// Nothing, among the routes of models.
    UnknownRoute,
    /// Nothing.
    Nowhere,
}

/// A page below `/-/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NodePage {
    Healthz,
    Routes,
    Metrics,
}

/// A route of models, or a page that lies beside them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    Generate,
    Completions,
    Chat,
    Responses,
    /// An answer that is kept.
    Response(&'a str),
    /// The input of an answer that is kept.
    InputItems(&'a str),
    Messages,
    CountTokens,
    Embeddings,
    Score,
    Rerank,
    Classify,
    Tokenize,
    Detokenize,
    Models,
    Model(&'a str),
    Healthz,
    Livez,
    Readyz,
    Health,
    Version,
    OpenApi,
    Metrics,
}

/// Where the routes are that name nothing.
pub(crate) const PATHS: [(&str, Route<'static>); 23] = [
    ("/generate", Route::Generate),
    ("/v1/completions", Route::Completions),
    ("/v1/chat/completions", Route::Chat),
    ("/v1/responses", Route::Responses),
    ("/v1/messages", Route::Messages),
    ("/v1/messages/count_tokens", Route::CountTokens),
    ("/v1/embeddings", Route::Embeddings),
    ("/v1/score", Route::Score),
    ("/score", Route::Score),
    ("/v1/rerank", Route::Rerank),
    ("/v2/rerank", Route::Rerank),
    ("/rerank", Route::Rerank),
    ("/classify", Route::Classify),
    ("/tokenize", Route::Tokenize),
    ("/detokenize", Route::Detokenize),
    ("/v1/models", Route::Models),
    ("/healthz", Route::Healthz),
    ("/livez", Route::Livez),
    ("/readyz", Route::Readyz),
    ("/health", Route::Health),
    ("/version", Route::Version),
    ("/openapi.json", Route::OpenApi),
    ("/metrics", Route::Metrics),
];

impl<'a> Target<'a> {
    pub(crate) fn of(path: &'a str, router: &Router) -> Self {
        if path.starts_with("/-/") {
            return NodePage::of(path).map_or(Self::Nowhere, Self::Node);
        }
        let mount = router.mount(path);
        if chat::is_shown(path, mount.as_ref(), router) {
            return Self::ChatPage;
        }
        let route = Route::of(path);
        let is_program = |mount: &Mount| mount.ingress.route().model.is_none();
        if let Some(page) = route.filter(|route| route.is_of_node())
            && !router.mount("/").is_some_and(|root| is_program(&root))
        {
            return Self::Models(page, Scope::Everywhere);
        }
        match mount {
            Some(mount) if is_program(&mount) => Self::Program(mount),
            Some(mount) => {
                let rest = &path[mount.prefix.trim_end_matches('/').len()..];
                match Route::of(rest).filter(|route| !route.is_of_process()) {
                    Some(route) => Self::Models(route, Scope::Prefix(mount.prefix.to_string())),
                    None => Self::UnknownRoute,
                }
            }
            None => match route {
                Some(route) => Self::Models(route, Scope::Everywhere),
                None if path.starts_with("/v1/") => Self::UnknownRoute,
                None => Self::Nowhere,
            },
        }
    }

    /// Whether it may be another one when the first route table has come.
    pub(crate) fn needs_table(&self) -> bool {
        match self {
            Self::Node(_) | Self::ChatPage => false,
            Self::Models(route, _) => !(route.is_of_node() || *route == Route::Healthz),
            Self::Program(_) | Self::UnknownRoute | Self::Nowhere => true,
        }
    }

    /// Whether it is a route of models, were it one that there is not.
    pub(crate) fn is_of_models(&self) -> bool {
        matches!(self, Self::Models(..) | Self::UnknownRoute)
    }

    /// Whether it wants an API key, where there are keys. Pages that say how the node is want none.
    pub(crate) fn wants_key(&self) -> bool {
        match self {
            Self::Models(route, _) => !route.is_open(),
            Self::Program(_) | Self::UnknownRoute => true,
            Self::Node(_) | Self::ChatPage | Self::Nowhere => false,
        }
    }

    /// Whether the limits of a key are for it.
    pub(crate) fn is_limited(&self) -> bool {
        match self {
            Self::Models(route, _) => !(route.is_open() || route.is_lookup()),
            Self::Program(_) => true,
            Self::Node(_) | Self::ChatPage | Self::UnknownRoute | Self::Nowhere => false,
        }
    }

    /// In whose words errors are told.
    pub(crate) fn dialect(&self) -> Dialect {
        match self {
            Self::Models(route, _) => route.dialect(),
            Self::UnknownRoute => Dialect::OpenAi,
            Self::Node(_) | Self::Program(_) | Self::ChatPage | Self::Nowhere => Dialect::Text,
        }
    }

    /// The name that metrics use; none for what monitors ask all the time.
    pub(crate) fn observed(&self) -> Option<&'static str> {
        match self {
            Self::Node(_) | Self::ChatPage => None,
            Self::Models(route, _) => route.observed(),
            Self::Program(_) => Some("application"),
            Self::UnknownRoute | Self::Nowhere => Some("unknown"),
        }
    }
}

impl NodePage {
    fn of(path: &str) -> Option<Self> {
        match path {
            "/-/healthz" => Some(Self::Healthz),
            "/-/routes" => Some(Self::Routes),
            "/-/metrics" => Some(Self::Metrics),
            _ => None,
        }
    }
}

impl<'a> Route<'a> {
    pub(crate) fn of(path: &'a str) -> Option<Self> {
        let known = PATHS.iter().find(|(known, _)| *known == path);
        known.map(|(_, route)| *route).or_else(|| Self::of_one(path))
    }

    /// A route that names something.
    fn of_one(path: &'a str) -> Option<Self> {
        let named = |prefix| path.strip_prefix(prefix).filter(|id: &&str| !id.is_empty());
        if let Some(id) = named("/v1/models/") {
            return Some(Self::Model(id));
        }
        let id = named("/v1/responses/")?;
        match id.split_once('/') {
            None => Some(Self::Response(id)),
            Some((id, "input_items")) if !id.is_empty() => Some(Self::InputItems(id)),
            Some(_) => None,
        }
    }

    /// Whether its page does not depend on any application.
    fn is_of_node(self) -> bool {
        self.is_of_process() || matches!(self, Self::Health | Self::Version)
    }

    /// Whether only monitors of this process ask it.
    fn is_of_process(self) -> bool {
        matches!(self, Self::Livez | Self::Readyz | Self::Metrics)
    }

    /// Whether it says how the node is, and nothing else: these want no key.
    fn is_open(self) -> bool {
        self.is_of_node() || matches!(self, Self::Healthz | Self::OpenApi)
    }

    /// Whether it only looks things up.
    fn is_lookup(self) -> bool {
        matches!(self, Self::Models | Self::Model(_) | Self::Response(_) | Self::InputItems(_))
    }

    pub(crate) fn methods(self) -> &'static [Method] {
        match self {
            Self::Generate
            | Self::Completions
            | Self::Chat
            | Self::Responses
            | Self::Messages
            | Self::CountTokens
            | Self::Embeddings
            | Self::Score
            | Self::Rerank
            | Self::Classify
            | Self::Tokenize
            | Self::Detokenize => &[Method::POST],
            Self::Response(_) => &[Method::GET, Method::DELETE],
            Self::InputItems(_)
            | Self::Models
            | Self::Model(_)
            | Self::Healthz
            | Self::Livez
            | Self::Readyz
            | Self::Health
            | Self::Version
            | Self::OpenApi
            | Self::Metrics => &[Method::GET],
        }
    }

    /// Where a model's replica has it; `/` for what no replica answers.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Generate => "/generate",
            Self::Completions => "/v1/completions",
            Self::Chat => "/v1/chat/completions",
            Self::Responses => "/v1/responses",
            Self::Messages => "/v1/messages",
            Self::CountTokens => "/v1/messages/count_tokens",
            Self::Embeddings => "/v1/embeddings",
            Self::Score => "/v1/score",
            Self::Rerank => "/v1/rerank",
            Self::Classify => "/classify",
            Self::Tokenize => "/tokenize",
            Self::Detokenize => "/detokenize",
            _ => "/",
        }
    }

    /// What it wants of a model; nothing that some of them do not have where absent.
    pub(crate) fn wanted(self) -> Option<Wanted> {
        match self {
            Self::Generate
            | Self::Completions
            | Self::Chat
            | Self::Responses
            | Self::Messages
            | Self::CountTokens => Some(Wanted::Generate),
            Self::Embeddings => Some(Wanted::Embed),
            Self::Score | Self::Rerank => Some(Wanted::Score),
            Self::Classify => Some(Wanted::Classify),
            _ => None,
        }
    }

    /// How its event streams end.
    pub(crate) fn stream(self) -> EventStream {
        match self {
            Self::Messages => EventStream::Messages,
            Self::Responses => EventStream::RESPONSES,
            _ => EventStream::OpenAi,
        }
    }

    /// In whose words errors are told.
    pub(crate) fn dialect(self) -> Dialect {
        match self {
            Self::Generate => Dialect::Generate,
            Self::Messages | Self::CountTokens => Dialect::Anthropic,
            _ => Dialect::OpenAi,
        }
    }

    fn observed(self) -> Option<&'static str> {
        match self {
            Self::Generate => Some("generate"),
            Self::Completions => Some("completions"),
            Self::Chat => Some("chat_completions"),
            Self::Responses | Self::Response(_) | Self::InputItems(_) => Some("responses"),
            Self::Messages => Some("messages"),
            Self::CountTokens => Some("count_tokens"),
            Self::Embeddings => Some("embeddings"),
            Self::Score => Some("score"),
            Self::Rerank => Some("rerank"),
            Self::Classify => Some("classify"),
            Self::Tokenize | Self::Detokenize => Some("tokenize"),
            Self::Models | Self::Model(_) => Some("models"),
            Self::Healthz
            | Self::Livez
            | Self::Readyz
            | Self::Health
            | Self::Version
            | Self::OpenApi
            | Self::Metrics => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{program, route, table};
    use tyndall_transport::Client;
    use tyndall_types::protocol::DeploymentRoute;

    /// What the paths lead to when these are mounted.
    fn check(mounted: &[(&str, DeploymentRoute)], expected: &[(&str, &str)]) {
        let router = Router::new(Client::unix("/nowhere"), "test");
        let mount = |(prefix, route): &(&str, DeploymentRoute)| DeploymentRoute {
            route_prefix: Some((*prefix).to_owned()),
            ..route.clone()
        };
        router.apply(table(1, mounted.iter().map(mount).collect()));
        for (path, expected) in expected {
            let found = match Target::of(path, &router) {
                Target::Node(page) => format!("{page:?}"),
                Target::Models(route, Scope::Everywhere) => format!("{route:?}"),
                Target::Models(route, Scope::Prefix(prefix)) => format!("{route:?} of {prefix}"),
                Target::Program(mount) => format!("program {}", mount.prefix),
                Target::ChatPage => "chat page".to_owned(),
                Target::UnknownRoute => "unknown".to_owned(),
                Target::Nowhere => "nowhere".to_owned(),
            };
            assert_eq!(found, *expected, "{path}");
        }
    }

    const NODE: [(&str, &str); 4] = [
        ("/-/healthz", "Healthz"),
        ("/-/routes", "Routes"),
        ("/-/metrics", "Metrics"),
        ("/-/status", "nowhere"),
    ];
    const MONITORS: [(&str, &str); 5] = [
        ("/livez", "Livez"),
        ("/readyz", "Readyz"),
        ("/metrics", "Metrics"),
        ("/version", "Version"),
        ("/health", "Health"),
    ];

    #[test]
    fn a_model_at_the_root_has_its_routes_there() {
        let mounted = [("/", route("m")), ("/other", route("other"))];
        check(&mounted, &NODE);
        check(&mounted, &MONITORS);
        check(
            &mounted,
            &[
                ("/generate", "Generate of /"),
                ("/v1/models/org/name", "Model(\"org/name\") of /"),
                ("/v1/embeddings", "Embeddings of /"),
                ("/score", "Score of /"),
                ("/v2/rerank", "Rerank of /"),
                ("/other/classify", "Classify of /other"),
                ("/healthz", "Healthz of /"),
                ("/", "chat page"),
                ("/v1/models/", "unknown"),
                ("/generate/", "unknown"),
                ("/v1", "unknown"),
                ("/other/v1/chat/completions", "Chat of /other"),
            ],
        );
    }

    #[test]
    fn a_program_at_the_root_gets_all_but_the_pages_of_the_node() {
        let mounted = [("/", program("p#d")), ("/m", route("m")), ("/m/q/", program("q#d"))];
        check(&mounted, &NODE);
        for path in ["/", "/livez", "/metrics", "/health", "/v1/models", "/-", "/mm", "/healthz"] {
            check(&mounted, &[(path, "program /")]);
        }
        check(
            &mounted,
            &[
                ("/openapi.json", "program /"),
                ("/m/openapi.json", "OpenApi of /m"),
                ("/m/generate", "Generate of /m"),
                ("/m/health", "Health of /m"),
                ("/m/healthz", "Healthz of /m"),
                ("/m/metrics", "unknown"),
                ("/m", "unknown"),
                ("/m/", "unknown"),
                ("/m/q", "unknown"),
                ("/m/q/", "program /m/q/"),
            ],
        );
    }

    #[test]
    fn where_nothing_is_mounted_at_the_root_all_models_are() {
        let mounted = [("/a", route("a")), ("/p/", program("p#d")), ("/health", program("h#d"))];
        check(&mounted, &NODE);
        check(&mounted, &MONITORS);
        check(
            &mounted,
            &[
                ("/generate", "Generate"),
                ("/v1/models", "Models"),
                ("/openapi.json", "OpenApi"),
                ("/p/openapi.json", "program /p/"),
                ("/healthz", "Healthz"),
                ("/a/v1/models", "Models of /a"),
                ("/p/generate", "program /p/"),
                ("/health/x", "program /health"),
                ("/v1/x", "unknown"),
                ("/v1", "nowhere"),
                ("/x", "nowhere"),
                ("/", "chat page"),
            ],
        );
        check(&mounted[1..], &[("/", "nowhere")]);
        check(&[], &NODE);
        check(
            &[],
            &[("/generate", "Generate"), ("/", "nowhere"), ("*", "nowhere"), ("", "nowhere")],
        );
    }
}
