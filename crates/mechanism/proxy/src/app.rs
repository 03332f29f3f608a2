//! Requests to their answers.

use crate::access::Holder;
use crate::body::{ObservedBody, Observer};
use crate::caller::{Caller, tell_limits};
use crate::chat;
use crate::checked::{Checked, Text, checked};
use crate::cors::Cors;
use crate::forward::{Asked, forward};
use crate::pages;
use crate::program;
use crate::reply::{Dialect, Failed, method_not_allowed, no_path, not_found, unread};
use crate::request_id::{REQUEST_ID, request_id};
use crate::shared::{Shared, no_model, shuts_down};
use crate::target::{NodePage, Route, Target};
use crate::tunnel::{METHOD as WEBSOCKET, wants_websocket};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tyndall_openai::{ApiError, Wanted, parse_generate};
use tyndall_router::{Deployment, Scope};
use tyndall_transport::{Body, BoxError, ConnectionLife, Handler, RequestBody, read_body};

/// Largest request body.
pub(crate) const MAX_BODY_BYTES: usize = 32 << 20;

/// A client must have sent its body by then.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// Answers every request of the public listener.
#[derive(Debug, Clone)]
pub(crate) struct App {
    shared: Arc<Shared>,
    cors: Arc<Cors>,
}

impl Handler for App {
    async fn handle(&self, mut request: Request<RequestBody>) -> Response<Body> {
        let id = request_id(request.headers());
        let path = request.uri().path().to_owned();
        let started = std::time::Instant::now();
        let mut target = Target::of(&path, &self.shared.router);
        let mut early = None;
        if target.needs_table() && !self.shared.router.has_table() {
            early = self.shared.first_table().await.err();
            target = Target::of(&path, &self.shared.router);
        }
        let mut observer = target.observed().map(|handler| Observer {
            metrics: self.shared.metrics().clone(),
            handler,
            method: observed_method(&target, &request),
            started,
            status: 499,
        });
        let judge = |_| self.cors.judge(request.method(), request.headers());
        let life = request.extensions().get::<ConnectionLife>().cloned();
        let verdict = target.is_of_models().then_some(()).map(judge).unwrap_or_default();
        let entered = match early {
            Some(error) => Err(error),
            None => self.identify(&target, &mut request),
        };
        let mut response = match (verdict.preflight, entered) {
            (Some(answer), _) => answer,
            (None, Err(error)) => Failed::from(error).into_response(target.dialect()),
            (None, Ok(None)) => self.answer(target, request, &id, Caller::default()).await,
            (None, Ok(Some(holder))) => {
                Box::pin(self.answer_key(target, request, &id, &holder)).await
            }
        };
        response.headers_mut().extend(verdict.headers);
        response.headers_mut().insert(REQUEST_ID, id);
        if let Some(observer) = &mut observer {
            observer.status = response.status().as_u16();
        }
        if let (StatusCode::SWITCHING_PROTOCOLS, Some(life)) = (response.status(), life) {
            life.keep(observer.take());
        }
        response.map(|inner| ObservedBody { inner, observer }.boxed_unsync())
    }
}

impl App {
    pub(crate) fn new(shared: Arc<Shared>, cors: Cors) -> Self {
        Self { shared, cors: Arc::new(cors) }
    }

    /// Whose key the request brings; nobody's where none is wanted.
    fn identify(
        &self,
        target: &Target<'_>,
        request: &mut Request<RequestBody>,
    ) -> Result<Option<Arc<Holder>>, ApiError> {
        let access = &self.shared.access;
        if access.is_open() || !target.wants_key() {
            return Ok(None);
        }
        let holder = access.identify(request.headers_mut());
        // Browsers ask what they may send before they send a key.
        if holder.is_none() && *request.method() != Method::OPTIONS {
            return Err(access.unauthorized());
        }
        Ok(holder)
    }

    /// A request with a key.
    async fn answer_key(
        &self,
        target: Target<'_>,
        request: Request<RequestBody>,
        id: &HeaderValue,
        holder: &Arc<Holder>,
    ) -> Response<Body> {
        let is_limited = target.is_limited();
        // Before the body is read: who is beyond the limits is not to cost much.
        let admitted = is_limited.then(|| self.shared.access.admit(holder)).transpose();
        let mut response = match admitted {
            Ok(grant) => {
                let caller = Caller::new(holder.clone(), grant);
                self.answer(target, request, id, caller).await
            }
            Err(failed) => failed.into_response(target.dialect()),
        };
        if is_limited {
            tell_limits(holder, response.headers_mut());
        }
        response
    }

    async fn answer(
        &self,
        target: Target<'_>,
        request: Request<RequestBody>,
        id: &HeaderValue,
        caller: Caller,
    ) -> Response<Body> {
        match target {
            Target::Node(NodePage::Healthz) => pages::node_health(&self.shared),
            Target::Node(NodePage::Routes) => pages::routes(&self.shared),
            Target::Node(NodePage::Metrics) => Box::pin(pages::metrics(&self.shared)).await,
            Target::Models(route, _) if !allows(route.methods(), request.method()) => {
                method_not_allowed(route.methods())
            }
            // Beside a generation, what is boxed here is nothing; a request to a program need not be as
            // large.
            Target::Models(route, scope) => {
                Box::pin(self.models(route, &scope, request, id, caller)).await
            }
            Target::Program(mount) => program::forward(&self.shared, &mount, request, id, caller)
                .await
                .unwrap_or_else(|failed| failed.into_response(Dialect::Text)),
            Target::ChatPage if !allows(&[chat::METHOD], request.method()) => {
                method_not_allowed(&[chat::METHOD])
            }
            Target::ChatPage => chat::page(),
            Target::UnknownRoute => not_found(),
            Target::Nowhere => no_path(request.uri().path()),
        }
    }

    async fn models(
        &self,
        route: Route<'_>,
        scope: &Scope,
        request: Request<RequestBody>,
        id: &HeaderValue,
        caller: Caller,
    ) -> Response<Body> {
        match route {
            Route::Generate
            | Route::Completions
            | Route::Chat
            | Route::Responses
            | Route::Messages
            | Route::CountTokens
            | Route::Embeddings
            | Route::Score
            | Route::Rerank
            | Route::Classify
            | Route::Tokenize
            | Route::Detokenize => self.call(route, scope, request, id, caller).await,
            Route::Response(id) => self.shared.kept.answer(caller.name(), id, false, &request),
            Route::InputItems(id) => self.shared.kept.answer(caller.name(), id, true, &request),
            Route::Models => pages::models(&self.shared, scope, &caller),
            Route::Model(model) => pages::model(&self.shared, scope, model, &caller),
            Route::Healthz => pages::healthz(&self.shared, scope),
            Route::Livez => pages::livez(),
            Route::Readyz => pages::readyz(&self.shared),
            Route::Health => pages::health(&self.shared),
            Route::Version => pages::version(),
            Route::OpenApi => pages::openapi(&self.shared, scope),
            Route::Metrics => pages::metrics(&self.shared).await,
        }
    }

    /// A request that a model answers.
    async fn call(
        &self,
        route: Route<'_>,
        scope: &Scope,
        request: Request<RequestBody>,
        id: &HeaderValue,
        caller: Caller,
    ) -> Response<Body> {
        let arrived = Instant::now();
        let answered = async {
            let (parts, body) = request.into_parts();
            let body = read(body).await?;
            // Checked here, before anything wakes; the replica reads it again.
            let (body, keep) = match route {
                Route::Responses => self.shared.kept.expand(caller.name(), body)?.into_parts(),
                _ => (body, None),
            };
            let (deployment, text) = match route {
                Route::Generate => self.of_generate(scope, &body, &caller)?,
                _ => {
                    let Checked { model, text } = checked(route, &body).await?;
                    (self.able(route, scope, model, &caller)?, text)
                }
            };
            let prefix = if has_prefix_affinity(&deployment) { text.prefix() } else { None };
            // As a model's replica has it, wherever the model is mounted.
            let path = Uri::from_static(route.path());
            let asked = Asked {
                path,
                headers: parts.headers,
                request_id: id.clone(),
                body,
                arrived,
                stream: route.stream(),
                grant: caller.into_grant(),
                prefix,
            };
            let response = forward(&self.shared, &deployment, asked).await?;
            Ok(self.shared.kept.keeping(keep, response))
        };
        let cut = async {
            self.shared.is_cut().await;
            Err(shuts_down().into())
        };
        let answer: Result<_, Failed> = tokio::select! {
            answer = answered => answer,
            cut = cut => cut,
        };
        answer.unwrap_or_else(|failed| failed.into_response(route.dialect()))
    }
}

impl App {
    /// The named model, or the only one, if it has what the route wants.
    fn able(
        &self,
        route: Route<'_>,
        scope: &Scope,
        model: Option<String>,
        caller: &Caller,
    ) -> Result<Arc<Deployment>, ApiError> {
        let found = self.shared.find(scope, model.as_deref(), caller)?;
        if let (Some(wanted), Some(model)) = (route.wanted(), &found.route().model) {
            wanted.check(&model.id, model.task)?;
        }
        Ok(found)
    }

    /// The model that a request of `/generate` means.
    fn of_generate(
        &self,
        scope: &Scope,
        body: &Bytes,
        caller: &Caller,
    ) -> Result<(Arc<Deployment>, Text), ApiError> {
        let first = self.shared.first(scope, caller)?;
        let route = first.route();
        let model = route.model.as_ref().ok_or_else(no_model)?;
        let asked = parse_generate(body, &model.generate)?;
        Wanted::Generate.check(&model.id, model.task)?;
        drop(route);
        Ok((first, asked.prompts.into_iter().next().map_or(Text::None, Text::Prompt)))
    }
}

/// Whether its replicas get prompts whose beginning they had before.
fn has_prefix_affinity(deployment: &Deployment) -> bool {
    deployment.route().model.as_ref().is_some_and(|model| model.prefix_affinity.is_some())
}

/// What metrics count a request as.
fn observed_method<B>(target: &Target<'_>, request: &Request<B>) -> Method {
    let is_program = matches!(target, Target::Program(_));
    if is_program && wants_websocket(request.method(), request.headers()) {
        return Method::from_bytes(WEBSOCKET.as_bytes()).expect("two letters are a method");
    }
    request.method().clone()
}

fn allows(allowed: &[Method], method: &Method) -> bool {
    // HEAD is GET without the body, which the server leaves out.
    allowed.contains(if method == Method::HEAD { &Method::GET } else { method })
}

/// Reads the body of a request.
pub(crate) async fn read(body: RequestBody) -> Result<Bytes, ApiError> {
    read_within(body, BODY_TIMEOUT).await
}

async fn read_within<B>(body: B, limit: Duration) -> Result<Bytes, ApiError>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    match tokio::time::timeout(limit, read_body(body, MAX_BODY_BYTES)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => Err(unread(&error)),
        Err(_) => Err(ApiError::request_timeout(format!(
            "the body did not arrive within {} s",
            limit.as_secs()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_that_never_ends_has_a_deadline() {
        let (sender, body) = tyndall_transport::line_channel(1);
        assert!(sender.send(&"half of it").await);
        let error = read_within(body, Duration::from_millis(10)).await.unwrap_err();
        assert_eq!((error.status, error.kind), (408, "RequestTimeoutError"));
    }
}
