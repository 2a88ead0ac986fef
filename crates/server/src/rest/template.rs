//! Path templates of `google.api.http`: `/v1/{name=aioVolumes/*}:stats`.

use percent_encoding::percent_decode_str;

/// A template, taken apart once at start.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Template {
    /// What each segment of a path must be.
    pub(crate) segments: Vec<Segment>,
    /// Which segments make up which field.
    pub(crate) variables: Vec<Variable>,
    /// What follows the last colon, as in `stats`.
    pub(crate) verb: Option<String>,
}

/// One segment of a template.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Segment {
    /// This text.
    Literal(String),
    /// Any one segment.
    One,
    /// All segments that are left, at least one.
    Rest,
}

/// A run of segments that is the value of a field.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Variable {
    /// Path of the field, as in `nvme_path.name`.
    pub(crate) field: String,
    /// Index of the first segment.
    pub(crate) start: usize,
    /// Index after the last segment.
    pub(crate) end: usize,
}

impl Template {
    /// Takes a template apart. `None` if it is not one.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut rest = text.strip_prefix('/')?;
        let mut template = Self {
            segments: Vec::new(),
            variables: Vec::new(),
            verb: None,
        };
        loop {
            if let Some(inner) = rest.strip_prefix('{') {
                let (variable, after) = inner.split_once('}')?;
                let (field, pattern) = variable.split_once('=').unwrap_or((variable, "*"));
                let start = template.segments.len();
                template.segments.extend(pattern.split('/').map(segment));
                let end = template.segments.len();
                template.variables.push(Variable {
                    field: field.to_owned(),
                    start,
                    end,
                });
                rest = after;
            } else {
                let end = rest.find(['/', ':']).unwrap_or(rest.len());
                template.segments.push(segment(&rest[..end]));
                rest = &rest[end..];
            }
            if rest.is_empty() {
                break;
            }
            if let Some(verb) = rest.strip_prefix(':') {
                template.verb = Some(verb.to_owned());
                break;
            }
            rest = rest.strip_prefix('/')?;
        }
        let empty = |s: &Segment| matches!(s, Segment::Literal(text) if text.is_empty());
        let rest_inside = template
            .segments
            .iter()
            .rev()
            .skip(1)
            .any(|s| *s == Segment::Rest);
        (!rest_inside && !template.segments.iter().any(empty)).then_some(template)
    }

    /// The fields that a path sets, or `None` if it does not match. `path` is still encoded.
    pub(crate) fn matches(&self, path: &str) -> Option<Vec<(&str, String)>> {
        let mut path = path.strip_prefix('/')?;
        if let Some(verb) = &self.verb {
            path = path.strip_suffix(verb.as_str())?.strip_suffix(':')?;
        }
        let parts: Vec<String> = path.split('/').map(decode).collect::<Option<_>>()?;
        let open = self.segments.last() == Some(&Segment::Rest);
        let count = self.segments.len();
        if parts.len() < count || (parts.len() > count && !open) {
            return None;
        }
        for (segment, part) in self.segments.iter().zip(&parts) {
            match segment {
                Segment::Literal(text) if text != part => return None,
                _ if part.is_empty() => return None,
                _ => {}
            }
        }
        let value = |v: &Variable| {
            let end = if v.end == count { parts.len() } else { v.end };
            parts[v.start..end].join("/")
        };
        Some(
            self.variables
                .iter()
                .map(|v| (v.field.as_str(), value(v)))
                .collect(),
        )
    }

    /// What the template demands, without the names of its fields: two routes that are equal in
    /// this collide.
    pub(crate) fn shape(&self) -> String {
        let segments = self.segments.iter().map(|s| match s {
            Segment::Literal(text) => text.as_str(),
            Segment::One => "*",
            Segment::Rest => "**",
        });
        let path = segments.collect::<Vec<_>>().join("/");
        format!(
            "/{path}{}",
            self.verb
                .as_ref()
                .map(|v| format!(":{v}"))
                .unwrap_or_default()
        )
    }
}

fn segment(text: &str) -> Segment {
    match text {
        "*" => Segment::One,
        "**" => Segment::Rest,
        literal => Segment::Literal(literal.to_owned()),
    }
}

/// One segment, decoded. An encoded slash stays encoded: it is no border between segments, and
/// no name can hold one.
fn decode(segment: &str) -> Option<String> {
    let text = percent_decode_str(segment).decode_utf8().ok()?;
    Some(text.replace('/', "%2F"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(template: &str, path: &str) -> Option<Vec<(String, String)>> {
        let template = Template::parse(template).unwrap();
        let found = template.matches(path)?;
        Some(found.into_iter().map(|(f, v)| (f.to_owned(), v)).collect())
    }

    fn one(field: &str, value: &str) -> Option<Vec<(String, String)>> {
        Some(vec![(field.to_owned(), value.to_owned())])
    }

    #[test]
    fn a_variable_takes_its_literals_along() {
        let template = "/v1/{name=aioVolumes/*}";
        assert_eq!(
            matches(template, "/v1/aioVolumes/a"),
            one("name", "aioVolumes/a")
        );
        for path in [
            "/v1/aioVolumes",
            "/v1/aioVolumes/",
            "/v1/aioVolumes/a/b",
            "/v1/x/a",
            "/v2/x",
        ] {
            assert_eq!(matches(template, path), None, "{path}");
        }
    }

    #[test]
    fn a_verb_is_cut_off() {
        let template = "/v1/{name=aioVolumes/*}:stats";
        assert_eq!(
            matches(template, "/v1/aioVolumes/a:stats"),
            one("name", "aioVolumes/a")
        );
        assert_eq!(matches(template, "/v1/aioVolumes/a"), None);
        assert_eq!(matches(template, "/v1/aioVolumes/:stats"), None);
        assert_eq!(matches(template, "/v1/aioVolumes/a:reset"), None);
    }

    #[test]
    fn text_may_follow_a_variable() {
        let template = "/v1/{parent=nvmeSubsystems/*}/nvmeControllers";
        let path = "/v1/nvmeSubsystems/s/nvmeControllers";
        assert_eq!(matches(template, path), one("parent", "nvmeSubsystems/s"));
        let template = "/v1/{nvme_path.name=nvmeRemoteControllers/*/nvmePaths/*}";
        let path = "/v1/nvmeRemoteControllers/c/nvmePaths/p";
        let expected = one("nvme_path.name", "nvmeRemoteControllers/c/nvmePaths/p");
        assert_eq!(matches(template, path), expected);
    }

    #[test]
    fn two_stars_take_all_that_is_left() {
        let template = "/ext/v1/observations/{name=**}";
        let path = "/ext/v1/observations/nvmeSubsystems/s/nvmeControllers/c";
        let expected = one("name", "nvmeSubsystems/s/nvmeControllers/c");
        assert_eq!(matches(template, path), expected);
        assert_eq!(matches(template, "/ext/v1/observations"), None);
        assert_eq!(matches(template, "/ext/v1/observations/"), None);
    }

    #[test]
    fn segments_are_decoded_after_they_are_split() {
        let template = "/v1/{name=aioVolumes/*}";
        assert_eq!(
            matches(template, "/v1/aioVolumes/a%20b"),
            one("name", "aioVolumes/a b")
        );
        assert_eq!(
            matches(template, "/v1/aioVolumes/a%2fb"),
            one("name", "aioVolumes/a%2Fb")
        );
        assert_eq!(matches(template, "/v1/aioVolumes/%ff"), None);
    }

    #[test]
    fn what_is_not_a_template_is_refused() {
        for text in [
            "",
            "v1/x",
            "/v1//x",
            "/v1/{name",
            "/v1/{name=**}/x",
            "/v1/{a}b",
            "/",
        ] {
            assert_eq!(Template::parse(text), None, "{text}");
        }
    }

    #[test]
    fn routes_with_the_same_shape_collide() {
        let shape = |text: &str| Template::parse(text).unwrap().shape();
        assert_eq!(shape("/v1/{parent=volumes}"), shape("/v1/volumes"));
        assert_eq!(shape("/v1/{name=a/*}:stats"), "/v1/a/*:stats");
    }
}
