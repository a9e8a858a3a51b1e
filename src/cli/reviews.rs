//! In Kubernetes the API server says who may read the pages of `serve`.
//!
//! Whose a bearer token is, a TokenReview says; whether he may `get` the page, as a URL that is of no resource, a
//! SubjectAccessReview: as in any component of Kubernetes, so a ClusterRole of `nonResourceURLs` lets readers in.

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::Client;
use kube::api::{Api, PostParams};

use crate::telemetry::access::{Access, Answer, Authority};

/// The API server as the authority.
pub(super) struct Reviews(pub(super) Client);

// === impl Reviews ===

impl Reviews {
    /// `None`: the token is nobody's.
    async fn owner(&self, token: &str) -> Result<Option<UserInfo>, kube::Error> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token.to_owned()),
                ..TokenReviewSpec::default()
            },
            ..TokenReview::default()
        };
        let reviews = Api::<TokenReview>::all(self.0.clone());
        let status = reviews.create(&PostParams::default(), &review).await?;
        let status = status.status.unwrap_or_default();
        if let Some(error) = status.error.filter(|error| !error.is_empty()) {
            tracing::debug!(error, "A token was refused.");
        }
        let authenticated = status.authenticated == Some(true);
        Ok(status.user.filter(|_| authenticated))
    }

    async fn may_get(&self, user: UserInfo, path: &str) -> Result<bool, kube::Error> {
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: user.username,
                uid: user.uid,
                groups: user.groups,
                extra: user.extra,
                non_resource_attributes: Some(NonResourceAttributes {
                    path: Some(path.to_owned()),
                    verb: Some("get".to_owned()),
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let reviews = Api::<SubjectAccessReview>::all(self.0.clone());
        let status = reviews.create(&PostParams::default(), &review).await?;
        // Who is denied is not allowed either.
        Ok(status.status.is_some_and(|status| status.allowed))
    }
}

impl Authority for Reviews {
    fn ask<'a>(&'a self, token: &'a str, path: &'a str) -> Answer<'a> {
        let failed = |what: &'static str| {
            move |error: kube::Error| match error {
                kube::Error::Api(status) if status.code == 403 => {
                    format!(
                        "the picker's service account has no right to create {what}; bind it to a ClusterRole that has, or set --metrics-endpoint-auth=false"
                    )
                }
                error => format!("{what}: {error}"),
            }
        };
        Box::pin(async move {
            let owner = self.owner(token).await.map_err(failed("tokenreviews"))?;
            let Some(owner) = owner else {
                return Ok(Access::Unknown);
            };
            let name = owner.username.clone().unwrap_or_default();
            let may = self.may_get(owner, path).await;
            Ok(match may.map_err(failed("subjectaccessreviews"))? {
                true => Access::Permitted,
                false => Access::Forbidden(name),
            })
        })
    }
}
