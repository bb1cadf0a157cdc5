"""The pages of accounts. django-allauth's own (sign-in, passwords, addresses) are mounted beside them at /accounts/."""

from django.urls import path
from django.views.generic import RedirectView

from accounts import account_views, audit_views, invitation_views, member_views, settings_views, views

urlpatterns = [
    path("login/", RedirectView.as_view(pattern_name="account_login", query_string=True), name="login"),
    path("signup/", RedirectView.as_view(pattern_name="account_signup", query_string=True), name="signup"),
    path("platform/account/", account_views.account, name="account"),
    path("platform/account/appearance/", account_views.choose_theme, name="account-appearance"),
    path("platform/account/sessions/end-others/", account_views.end_other_sessions, name="account-end-others"),
    path("platform/account/sessions/<int:id>/end/", account_views.end_session, name="account-end-session"),
    path("platform/account/delete/", account_views.delete_account, name="account-delete"),
    path("platform/organizations/", views.create_organization, name="organization-create"),
    path("platform/organizations/switch/", views.switch_organization, name="organization-switch"),
    path("platform/environment/", views.switch_environment, name="environment-switch"),
    path("platform/api/api-keys/", views.api_keys, name="api-keys"),
    path("platform/api/api-keys/new/", views.new_api_key, name="api-key-new"),
    path("platform/api/api-keys/<slug:public_id>/change/", views.change_api_key, name="api-key-change"),
    path("platform/api/api-keys/<slug:public_id>/rotate/", views.rotate_api_key, name="api-key-rotate"),
    path("platform/api/api-keys/<slug:public_id>/revoke/", views.revoke_api_key, name="api-key-revoke"),
    path("platform/members/", member_views.members_page, name="members"),
    path("platform/members/invite/", member_views.invite, name="members-invite"),
    path(
        "platform/members/invitations/<slug:public_id>/renew/",
        member_views.renew_invitation,
        name="invitation-renew",
    ),
    path(
        "platform/members/invitations/<slug:public_id>/revoke/",
        member_views.revoke_invitation,
        name="invitation-revoke",
    ),
    path("platform/members/leave/", member_views.leave, name="members-leave"),
    path("platform/members/transfer/", member_views.transfer, name="members-transfer"),
    path("platform/members/<int:member_id>/", member_views.member, name="member"),
    path("platform/members/<int:member_id>/remove/", member_views.remove_member, name="member-remove"),
    path("invitations/", invitation_views.invitation, name="invitation"),
    path("invitations/another-account/", invitation_views.use_another_account, name="invitation-another-account"),
    path("invitations/<slug:token>/", invitation_views.open_link, name="invitation-link"),
    path("platform/settings/", settings_views.settings_page, name="settings"),
    path("platform/settings/retention/", settings_views.retention, name="settings-retention"),
    path("platform/settings/delete/", settings_views.delete_organization, name="organization-delete"),
    path("platform/audit-log/", audit_views.audit_log, name="audit-log"),
    path("platform/audit-log/export/", audit_views.export_audit_log, name="audit-log-export"),
]
