"""Every setting of Respan, once, in the order of reading. Values come from the environment or from `.env`.

Documented for operators in `.env.example`; unsafe combinations are refused by `respan/checks.py`.
"""

from pathlib import Path
from urllib.parse import quote, urlsplit

import environ

env = environ.FileAwareEnv()
BASE_DIR = Path(__file__).resolve().parent.parent
environ.Env.read_env(env.str("RESPAN_ENV_FILE", default=str(BASE_DIR / ".env")))

# --- Where we are ---------------------------------------------------------------------------------------------------
RESPAN_DATA_DIR = Path(env.str("RESPAN_DATA_DIR", default=str(BASE_DIR / ".data"))).resolve()
RESPAN_SPOOL_DIR = RESPAN_DATA_DIR / "spool"
HOST = env.str("HOST", default="127.0.0.1")
PORT = env.int("PORT", default=8000)
RESPAN_BASE_URL = env.str("RESPAN_BASE_URL", default=f"http://{'127.0.0.1' if HOST == '0.0.0.0' else HOST}:{PORT}")  # noqa: S104
RESPAN_BASE_URL = RESPAN_BASE_URL.rstrip("/")
_base = urlsplit(RESPAN_BASE_URL)
RESPAN_IS_LOOPBACK = _base.hostname in {"127.0.0.1", "localhost", "::1"} and HOST in {"127.0.0.1", "localhost", "::1"}
RESPAN_IS_HTTPS = _base.scheme == "https"
# Plain http on a name others can reach is refused unless this says the network is trusted.
RESPAN_ALLOW_HTTP = env.bool("RESPAN_ALLOW_HTTP", default=False)
# Web processes that `manage.py up` starts on the one port.
RESPAN_WEB_PROCESSES = env.int("RESPAN_WEB_PROCESSES", default=1)

# --- Secrets (generated into .env by `manage.py up` on a first start) -----------------------------------------------
SECRET_KEY = env.str("SECRET_KEY", default="")
# HMAC key of stored API keys; changing it revokes every API key.
RESPAN_KEY_PEPPER = env.str("RESPAN_KEY_PEPPER", default="")
# Key ring of provider keys: `kid:base64 of 32 bytes`, comma separated, the first encrypts. BACK THIS UP.
RESPAN_KEYS = env.str("RESPAN_KEYS", default="")

# --- Django ---------------------------------------------------------------------------------------------------------
DEBUG = env.bool("DEBUG", default=False)
_loopback_hosts = ["127.0.0.1", "localhost", "[::1]"]
ALLOWED_HOSTS = list(
    dict.fromkeys(
        [_base.hostname or "", *(_loopback_hosts if RESPAN_IS_LOOPBACK else []), *env.list("ALLOWED_HOSTS", default=[])]
    )
)
CSRF_TRUSTED_ORIGINS = [f"{_base.scheme}://{_base.netloc}"]
ROOT_URLCONF = "respan.urls"
ASGI_APPLICATION = "respan.asgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"
USE_I18N = False
APPEND_SLASH = True

INSTALLED_APPS = [
    "unfold",  # before the admin it dresses
    "unfold.contrib.filters",
    "django.contrib.admin.apps.SimpleAdminConfig",  # the console is loaded with the addresses: half of a start
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "csp",
    "rest_framework",
    "drf_spectacular",  # its command and its checks; nothing of it is served
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "allauth.usersessions",
    "accounts",
    "billing",
    "traces",
    "gateway",
    "respan",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    # Pages only: static files are compressed already, gateway answers never come here. It pads against BREACH.
    "django.middleware.gzip.GZipMiddleware",
    "csp.middleware.CSPMiddleware",
    "respan.console.relax_policy",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "accounts.sessions.SeenMiddleware",
    "accounts.tenancy.OrganizationMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "respan.pages.frame",
            ],
        },
    }
]

# --- Database and broker --------------------------------------------------------------------------------------------
# Unset: `manage.py` starts a private PostgreSQL and sets it (respan/embedded.py).
DATABASE_URL = env.str("DATABASE_URL", default="")
DATABASES = {
    "default": {
        **environ.Env.db_url_config(DATABASE_URL or "postgres://unset:unset@127.0.0.1:1/unset"),
        "ENGINE": "django.db.backends.postgresql",
        # Under ASGI every request has a thread of its own: a connection kept with it would be left open.
        "CONN_MAX_AGE": 0,
        "ATOMIC_REQUESTS": False,
        "OPTIONS": {"connect_timeout": 5},
    }
}
RESPAN_POOL_SIZE = env.int("RESPAN_POOL_SIZE", default=8)


def _pgmq_url() -> str:
    database = DATABASES["default"]
    credentials = f"{quote(str(database['USER']), safe='')}:{quote(str(database['PASSWORD']), safe='')}"
    return f"pgmq://{credentials}@{database['HOST']}:{database['PORT'] or 5432}/{database['NAME']}"


CELERY_BROKER_URL = env.str("CELERY_BROKER_URL", default="") or _pgmq_url()
# Optional: counters of limits, answers kept, breakers, shared by all hosts. Unset: PostgreSQL and each process.
REDIS_URL = env.str("REDIS_URL", default="")

# --- People ---------------------------------------------------------------------------------------------------------
AUTH_USER_MODEL = "accounts.User"
AUTHENTICATION_BACKENDS = ["allauth.account.auth_backends.AuthenticationBackend"]  # a ModelBackend that knows e-mails
PASSWORD_HASHERS = [
    "django.contrib.auth.hashers.Argon2PasswordHasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
PASSWORD_RESET_TIMEOUT = 24 * 3600
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "/platform/"
EMAIL_URL = env.str("EMAIL_URL", default="")
EMAIL_IS_CONFIGURED = bool(EMAIL_URL)
if EMAIL_IS_CONFIGURED:
    vars().update(environ.Env.email_url_config(EMAIL_URL))
else:
    EMAIL_BACKEND = "django.core.mail.backends.dummy.EmailBackend"
DEFAULT_FROM_EMAIL = env.str("DEFAULT_FROM_EMAIL", default=f"Respan <no-reply@{_base.hostname}>")
ACCOUNT_LOGIN_METHODS = {"email"}
ACCOUNT_SIGNUP_FIELDS = ["email*", "password1*"]
ACCOUNT_USER_MODEL_USERNAME_FIELD = None
ACCOUNT_EMAIL_VERIFICATION = "mandatory" if EMAIL_IS_CONFIGURED else "none"
ACCOUNT_EMAIL_VERIFICATION_BY_CODE_ENABLED = ACCOUNT_EMAIL_NOTIFICATIONS = EMAIL_IS_CONFIGURED
# One address for each person, changed by a code. Without e-mail not at all: anybody could claim anybody's.
ACCOUNT_CHANGE_EMAIL = EMAIL_IS_CONFIGURED
ACCOUNT_MAX_EMAIL_ADDRESSES = 2 if EMAIL_IS_CONFIGURED else 1
ACCOUNT_ADAPTER = "accounts.signup.AccountAdapter"
ACCOUNT_FORMS = {
    "signup": "accounts.forms.SignupForm",
    "login": "accounts.signin_forms.LoginForm",
    "add_email": "accounts.signin_forms.AddEmailForm",
    "change_email": "accounts.signin_forms.ChangeEmailForm",
    "change_password": "accounts.signin_forms.ChangePasswordForm",
    "set_password": "accounts.signin_forms.SetPasswordForm",
    "reset_password": "accounts.signin_forms.ResetPasswordForm",
    "reset_password_from_key": "accounts.signin_forms.ResetPasswordKeyForm",
    "reauthenticate": "accounts.signin_forms.ReauthenticateForm",
    "confirm_email_verification_code": "accounts.signin_forms.ConfirmEmailVerificationCodeForm",
    "confirm_login_code": "accounts.signin_forms.ConfirmLoginCodeForm",
}
# Guesses are counted for each account and each address, together for all web processes (`CACHES`).
ACCOUNT_RATE_LIMITS = {
    "login": "30/m/ip",
    "login_failed": "10/m/ip,5/5m/key",
    "signup": "20/m/ip",
    "reset_password": "20/m/ip,5/m/key",
    "reset_password_from_key": "20/m/ip",
    "reauthenticate": "10/m/user",
    "change_password": "5/m/user",
    "manage_email": "10/m/user",
}
# What changes how somebody signs in asks for the password again, unless they gave it in the last five minutes.
ACCOUNT_REAUTHENTICATION_REQUIRED = True
# No box to tick: a session lasts SESSION_COOKIE_AGE.
ACCOUNT_SESSION_REMEMBER = True
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.db.DatabaseCache",
        "LOCATION": "shared_cache",  # made by a migration of accounts; swept by accounts.tasks
        "OPTIONS": {"MAX_ENTRIES": 1_000_000},
    }
}
MFA_ADAPTER = "accounts.factors.MfaAdapter"
MFA_FORMS = {
    "authenticate": "accounts.signin_forms.AuthenticateForm",
    "reauthenticate": "accounts.signin_forms.ReauthenticateByCodeForm",
    "activate_totp": "accounts.signin_forms.ActivateAppForm",
    "add_webauthn": "accounts.signin_forms.AddPasskeyForm",
    "edit_webauthn": "accounts.signin_forms.RenamePasskeyForm",
}
MFA_SUPPORTED_TYPES = ["totp", "webauthn", "recovery_codes"]
MFA_ALLOW_UNVERIFIED_EMAIL = not EMAIL_IS_CONFIGURED
MFA_PASSKEY_LOGIN_ENABLED = True
MFA_TOTP_ISSUER = "Respan"
MFA_WEBAUTHN_ALLOW_INSECURE_ORIGIN = RESPAN_IS_LOOPBACK
ACCOUNT_DEFAULT_HTTP_PROTOCOL = _base.scheme
ACCOUNT_LOGOUT_ON_GET = False
RESPAN_SIGNUP_OPEN = env.bool("RESPAN_SIGNUP_OPEN", default=True)
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = RESPAN_IS_HTTPS
SESSION_COOKIE_NAME = "__Host-session" if RESPAN_IS_HTTPS else "respan_session"
CSRF_COOKIE_NAME = "__Host-csrf" if RESPAN_IS_HTTPS else "respan_csrf"
SESSION_COOKIE_HTTPONLY = CSRF_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_AGE = 12 * 3600

# --- The browser's safety -------------------------------------------------------------------------------------------
SECURE_SSL_REDIRECT = env.bool("SECURE_SSL_REDIRECT", default=False)
SECURE_REDIRECT_EXEMPT = [r"^healthz$", r"^readyz$"]  # asked over plain http by load balancers
SECURE_HSTS_SECONDS = 31_536_000 if RESPAN_IS_HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = RESPAN_IS_HTTPS
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
# Addresses (CIDR) of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed.
RESPAN_TRUSTED_PROXIES = env.list("RESPAN_TRUSTED_PROXIES", default=[])
if RESPAN_TRUSTED_PROXIES:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
_self = "'self'"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'none'"],
        "script-src": [_self],
        "style-src": [_self],
        "img-src": [_self, "data:"],
        "font-src": [_self],
        "connect-src": [_self],
        "base-uri": ["'none'"],
        "frame-ancestors": ["'none'"],
        "form-action": [_self],
    }
}

# --- The operator's console (django-unfold) -------------------------------------------------------------------------
UNFOLD = {
    "SITE_TITLE": "Respan console",
    "SITE_HEADER": "Respan",
    "SITE_SUBHEADER": "Operator's console",
    "SITE_URL": "/platform/",
    "SITE_ICON": "respan.console.logo",
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": "respan.console.logo"}],
    "STYLES": ["respan.console.style"],
    "SHOW_VIEW_ON_SITE": False,
    "SHOW_BACK_BUTTON": True,
    "BORDER_RADIUS": "8px",
    "DASHBOARD_CALLBACK": "respan.console.start",
    "SIDEBAR": {"show_search": False, "navigation": "respan.console.navigation"},
    # The product's neutral and its one accent (respan/assets/respan.css), in unfold's eleven steps.
    "COLORS": {
        "base": {
            "50": "oklch(98.2% .003 270)",
            "100": "oklch(96.5% .003 270)",
            "200": "oklch(91.5% .004 270)",
            "300": "oklch(87% .006 270)",
            "400": "oklch(72% .01 270)",
            "500": "oklch(52% .012 270)",
            "600": "oklch(44% .012 270)",
            "700": "oklch(35% .011 270)",
            "800": "oklch(26% .009 270)",
            "900": "oklch(19.5% .007 270)",
            "950": "oklch(14.5% .006 270)",
        },
        "primary": {
            "50": "oklch(97% .014 272)",
            "100": "oklch(94% .03 272)",
            "200": "oklch(89% .06 272)",
            "300": "oklch(82% .1 272)",
            "400": "oklch(74% .13 272)",
            "500": "oklch(70% .15 272)",
            "600": "oklch(50% .2 272)",
            "700": "oklch(45% .19 272)",
            "800": "oklch(40% .16 272)",
            "900": "oklch(35% .13 272)",
            "950": "oklch(26% .1 272)",
        },
        "font": {
            "subtle-light": "var(--color-base-500)",
            "subtle-dark": "var(--color-base-400)",
            "default-light": "var(--color-base-600)",
            "default-dark": "var(--color-base-300)",
            "important-light": "var(--color-base-900)",
            "important-dark": "var(--color-base-100)",
        },
    },
}

# --- Static files ---------------------------------------------------------------------------------------------------
STATIC_URL = "/static/"
STATIC_ROOT = Path(env.str("RESPAN_STATIC_ROOT", default=str(RESPAN_DATA_DIR / "static")))
STATICFILES_DIRS: list[Path] = []
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
WHITENOISE_USE_FINDERS = True


def _is_built(path: str, url: str) -> bool:
    """Tell whether a file's address changes with its content (the template tag `asset`): browsers keep it for ever."""
    return url.startswith(f"{STATIC_URL}dist/")


WHITENOISE_IMMUTABLE_FILE_TEST = _is_built

# --- The gateway ----------------------------------------------------------------------------------------------------
RESPAN_MAX_BODY_BYTES = env.int("RESPAN_MAX_BODY_BYTES", default=32 * 1024 * 1024)
RESPAN_BODY_TIMEOUT_S = env.float("RESPAN_BODY_TIMEOUT_S", default=30.0)
RESPAN_WRITE_STALL_TIMEOUT_S = env.float("RESPAN_WRITE_STALL_TIMEOUT_S", default=60.0)
RESPAN_CONNECT_TIMEOUT_S = env.float("RESPAN_CONNECT_TIMEOUT_S", default=5.0)
RESPAN_FIRST_BYTE_TIMEOUT_S = env.float("RESPAN_FIRST_BYTE_TIMEOUT_S", default=60.0)
# A whole (not streamed) answer begins when all of it is written.
RESPAN_ANSWER_TIMEOUT_S = env.float("RESPAN_ANSWER_TIMEOUT_S", default=300.0)
RESPAN_GAP_TIMEOUT_S = env.float("RESPAN_GAP_TIMEOUT_S", default=90.0)
RESPAN_TOTAL_TIMEOUT_S = env.float("RESPAN_TOTAL_TIMEOUT_S", default=590.0)
# host:port pairs of private addresses that provider keys may point at, for example `10.0.0.5:8000`.
RESPAN_UPSTREAM_ALLOW = env.list("RESPAN_UPSTREAM_ALLOW", default=[])
RESPAN_UPSTREAM_MAX_CONCURRENCY = env.int("RESPAN_UPSTREAM_MAX_CONCURRENCY", default=4000)
# How many of those one organization may hold when others need them too; 0: half.
RESPAN_TENANT_MAX_CONCURRENCY = env.int("RESPAN_TENANT_MAX_CONCURRENCY", default=0)
# Folders with more catalogue files (`*.toml`), loaded after ours.
RESPAN_CATALOG_EXTRA = [Path(folder) for folder in env.list("RESPAN_CATALOG_EXTRA", default=[])]
# An operator's provider keys by environment: RESPAN_PLATFORM_KEY_OPENAI=sk-... (see gateway/credentials.py).
RESPAN_PLATFORM_KEY_PREFIX = "RESPAN_PLATFORM_KEY_"

# --- Money ----------------------------------------------------------------------------------------------------------
# Credits a new organization starts with, in USD. Default none: it would be farmed.
RESPAN_SIGNUP_GRANT_USD = env.str("RESPAN_SIGNUP_GRANT_USD", default="0")

# --- Traces ---------------------------------------------------------------------------------------------------------
RESPAN_RETENTION_DAYS = env.int("RESPAN_RETENTION_DAYS", default=30)
RESPAN_MAX_STORED_BODY_BYTES = 256 * 1024

# --- Docs -----------------------------------------------------------------------------------------------------------
# Requests a minute that one address may make to the Docs MCP (/mcp/docs) of one web process.
RESPAN_DOCS_MCP_PER_MINUTE = env.int("RESPAN_DOCS_MCP_PER_MINUTE", default=60)

# --- DRF ------------------------------------------------------------------------------------------------------------
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["accounts.authentication.ApiKeyAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "EXCEPTION_HANDLER": "respan.api.exception_handler",
    "UNAUTHENTICATED_USER": None,
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
}
# The document at /api/schema/ (respan/schema.py).
SPECTACULAR_SETTINGS = {
    "TITLE": "Respan API",
    "DESCRIPTION": "The gateway, in the formats of OpenAI, Anthropic and Google, and the management API of its logs.",
    "VERSION": "1",
    "OAS_VERSION": "3.1.0",
    "SERVERS": [{"url": RESPAN_BASE_URL}],
    "PREPROCESSING_HOOKS": ["respan.schema.management_only"],
    "POSTPROCESSING_HOOKS": ["respan.schema.with_gateway"],
    "SORT_OPERATION_PARAMETERS": False,
}

# --- Logs of the processes (never bodies, never secrets) ------------------------------------------------------------
LOG_LEVEL = env.str("LOG_LEVEL", default="INFO")
LOGGING_CONFIG = "respan.logging.configure"
LOGGING = {"level": LOG_LEVEL, "json": env.bool("LOG_JSON", default=not RESPAN_IS_LOOPBACK)}
