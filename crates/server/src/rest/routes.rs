//! The route table of the REST interface, made from the `google.api.http` annotations.
//!
//! Two annotations of the OPI API collide: `ListEncryptedVolumes` and `ListQosVolumes` both say
//! `GET /v1/{parent=volumes}`. As in the reference bridge the later one wins, so `GET /v1/volumes`
//! lists QoS volumes. Beside the annotations every list has the route its collection suggests:
//! `GET /v1/encryptedVolumes` and `GET /v1/qosVolumes` answer for themselves.

use api::kinds::{self, Method, Verb};
use http::Method as HttpMethod;
use prost_reflect::FieldDescriptor;

use super::template::Template;

/// What the HTTP body of a route holds.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    /// Nothing.
    None,
    /// The whole request.
    Whole,
    /// One field of it.
    Field(FieldDescriptor),
}

/// One way to call a method over HTTP.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    /// The HTTP method.
    pub(crate) verb: HttpMethod,
    /// What the path must look like.
    pub(crate) template: Template,
    /// The RPC.
    pub(crate) method: &'static Method,
    /// What the body holds.
    pub(crate) body: Body,
    /// `parent`, for a route of our own to a list whose request demands one.
    pub(crate) parent: Option<&'static str>,
    /// The method whose route this one hides.
    pub(crate) hides: Option<&'static Method>,
}

/// All routes.
#[derive(Clone, Debug)]
pub(crate) struct Routes(Vec<Route>);

/// What the table says about a request.
#[derive(Debug)]
pub(crate) enum Found<'a> {
    /// This route, with the fields that the path sets.
    Route(&'a Route, Vec<(&'a str, String)>),
    /// The path exists, but only for these HTTP methods.
    OtherVerb(Vec<&'a HttpMethod>),
    /// No such path.
    Nothing,
}

impl Routes {
    /// Reads the annotations of all methods.
    ///
    /// # Panics
    /// An annotation is malformed; the tests walk all of them.
    pub(crate) fn new() -> Self {
        let mut routes: Vec<Route> = Vec::new();
        for method in kinds::methods() {
            for rule in &method.http {
                add(&mut routes, read(method, rule));
            }
        }
        for method in kinds::methods().iter().filter(|m| m.verb == Verb::List) {
            let Some(kind) = method.kind().filter(|k| k.parent().is_none()) else {
                continue;
            };
            let text = format!("/v1/{}", kind.collection);
            let template = Template::parse(&text).expect("a collection is one literal");
            let shape = template.shape();
            if routes
                .iter()
                .all(|r| r.verb != HttpMethod::GET || r.template.shape() != shape)
            {
                routes.push(Route {
                    verb: HttpMethod::GET,
                    template,
                    method,
                    body: Body::None,
                    parent: method
                        .fields
                        .parent
                        .as_ref()
                        .map(|_| kinds::LEGACY_COLLECTION),
                    hides: None,
                });
            }
        }
        // A route with a verb is the closer match: `*` takes `x:stats` too.
        routes.sort_by_key(|r| r.template.verb.is_none());
        Self(routes)
    }

    /// Finds the route of a request.
    pub(crate) fn find<'a>(&'a self, verb: &HttpMethod, path: &str) -> Found<'a> {
        let mut others = Vec::new();
        for route in &self.0 {
            let Some(fields) = route.template.matches(path) else {
                continue;
            };
            if route.verb == verb {
                return Found::Route(route, fields);
            }
            if !others.contains(&&route.verb) {
                others.push(&route.verb);
            }
        }
        if others.is_empty() {
            Found::Nothing
        } else {
            Found::OtherVerb(others)
        }
    }

    /// All routes, those with a verb first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Route> {
        self.0.iter()
    }
}

fn read(method: &'static Method, rule: &kinds::HttpRule) -> Route {
    let field = |name: &str| {
        let field = method.descriptor.input().get_field_by_name(name);
        Body::Field(field.unwrap_or_else(|| panic!("{} has no body {name}", method.path)))
    };
    let body = match rule.body.as_deref() {
        None => Body::None,
        Some("*") => Body::Whole,
        Some(name) => field(name),
    };
    let template = Template::parse(&rule.template);
    Route {
        verb: rule
            .verb
            .parse()
            .expect("google.api.http names standard verbs"),
        template: template.unwrap_or_else(|| panic!("{} has a malformed route", method.path)),
        method,
        body,
        parent: None,
        hides: None,
    }
}

/// Adds a route; it takes the place of one that it collides with.
fn add(routes: &mut Vec<Route>, mut route: Route) {
    let shape = route.template.shape();
    let same = |r: &Route| r.verb == route.verb && r.template.shape() == shape;
    if let Some(at) = routes.iter().position(same) {
        route.hides = Some(routes[at].method);
        routes[at] = route;
    } else {
        routes.push(route);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(verb: &str, path: &str) -> String {
        match Routes::new().find(&verb.parse().unwrap(), path) {
            Found::Route(route, _) => route.method.descriptor.name().to_owned(),
            Found::OtherVerb(verbs) => format!("{verbs:?}"),
            Found::Nothing => "nothing".to_owned(),
        }
    }

    #[test]
    fn every_method_has_a_route() {
        let routes = Routes::new();
        for method in kinds::methods() {
            assert!(
                routes.iter().any(|r| r.method.path == method.path),
                "{}",
                method.path
            );
        }
    }

    #[test]
    fn one_collision_is_known_and_both_lists_have_a_route_of_their_own() {
        let routes = Routes::new();
        let hidden: Vec<_> = routes.iter().filter_map(|r| r.hides).collect();
        assert_eq!(hidden.len(), 1);
        assert_eq!(hidden[0].descriptor.name(), "ListEncryptedVolumes");
        assert_eq!(name("GET", "/v1/volumes"), "ListQosVolumes");
        assert_eq!(name("GET", "/v1/qosVolumes"), "ListQosVolumes");
        assert_eq!(name("GET", "/v1/encryptedVolumes"), "ListEncryptedVolumes");
        assert_eq!(name("GET", "/v1/virtioScsiLuns"), "ListVirtioScsiLuns");
        assert_eq!(name("GET", "/v1/volumes/x"), "nothing");
    }

    #[test]
    fn a_verb_in_the_path_decides() {
        assert_eq!(name("GET", "/v1/nullVolumes/n:stats"), "StatsNullVolume");
        assert_eq!(name("GET", "/v1/nullVolumes/n"), "GetNullVolume");
        let reset = name("POST", "/v1/nvmeRemoteControllers/c:reset");
        assert_eq!(reset, "ResetNvmeRemoteController");
        assert_eq!(
            name("GET", "/ext/v1/observations:watch"),
            "WatchObservations"
        );
        assert_eq!(
            name("GET", "/ext/v1/observations/nullVolumes/n"),
            "GetObservation"
        );
        assert_eq!(
            name("POST", "/ext/v1/nvmeDiscovery:discover"),
            "DiscoverNvmeSubsystems"
        );
    }

    #[test]
    fn another_http_method_is_told_apart_from_another_path() {
        assert_eq!(name("PUT", "/v1/nullVolumes/n"), "[DELETE, PATCH, GET]");
        assert_eq!(name("GET", "/v1/nothing"), "nothing");
    }
}
