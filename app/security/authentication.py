"""Authentication: who calls, by whichever of the ways that this service was given. It asks for no permission."""

from app.errors import NotAuthenticated
from app.security.gate import Caller
from app.security.identity_provider import IdentityProvider, unverified_issuer
from app.security.signatures import Headers, Signatures, SignedRequest, is_signed
from app.security.tokens import Tokens, bearer_token


class Authentication:
    """The ways to say who one is: a signature, a token of the identity provider, a token of our own."""

    def __init__(self, *, tokens: Tokens | None, provider: IdentityProvider | None, signatures: Signatures) -> None:
        self._tokens = tokens
        self._provider = provider
        self._signatures = signatures

    async def check_head(self, headers: Headers) -> None:
        """Check of a request that `is_signed` what needs neither its body nor a reckoning; raise BadSignature."""
        await self._signatures.check_head(headers)

    async def by_signature(self, request: SignedRequest, request_id: str | None) -> Caller:
        """Return who signed a request, which `is_signed`; raise BadSignature."""
        subject, signed_by = await self._signatures.verify(request)
        return Caller(subject=subject, signed_by=signed_by, request_id=request_id)

    async def by_token(self, authorization: str | None, request_id: str | None) -> Caller:
        """Return who sent a bearer token; raise NotAuthenticated, or IdentityProviderUnavailable."""
        token = bearer_token(authorization)
        if self._provider is not None and unverified_issuer(token) == self._provider.issuer:
            return Caller(subject=await self._provider.verify(token), request_id=request_id)
        if self._tokens is None:
            raise NotAuthenticated
        return Caller(subject=self._tokens.verify(token), request_id=request_id)


def says_who(headers: Headers) -> bool:
    """Tell whether a request says who sends it, well or badly."""
    return is_signed(headers) or any(name == b"authorization" for name, _ in headers)
