"""A reward for other machines, over HTTP. Requests are hostile until they prove otherwise."""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from loopwright.errors import CheckError, LoopwrightError, RewardError
from loopwright.rewards.base import Reward, Sample, Scores, check_scores
from loopwright.rewards.wire import (
    PROTOCOL,
    Health,
    Refusal,
    ScoreReply,
    ScoreRequest,
    ServedModel,
    TextSample,
    Version,
)
from loopwright.serving.server import (
    FastAPI,
    HTTPException,
    Request,
    Response,
    admit,
    bare_app,
    json_response,
    parse,
    read_body,
)
from loopwright.serving.tokens import check_token

PAGE = "docs/rewards.md"  # what a request should have been like

_log = logging.getLogger("loopwright.reward_server")


@dataclass(frozen=True)
class Limits:
    """What a request may ask for."""

    body_bytes: int = 16 * 2**20
    samples: int = 1024
    characters: int = 100_000  # of a prompt, and of a response


def reward_app(
    reward: Reward, token: str | None = None, *, content_hash: str | None = None, limits: Limits = Limits()
) -> FastAPI:
    """`GET /health` and `POST /score` of a reward that reads text. One request is scored at a time.

    Args:
        token: what clients must send. None: nothing, and only requests that name this machine `localhost` are answered,
            so that no web page can ask by a name of its own.
        content_hash: of what decides the scores; clients stop when it changes in the middle of a run.

    Raises:
        ConfigError: the token could be guessed.
    """
    if token is not None:
        check_token(token, "reward_app")
    served = ServedModel(name=reward.name[:200], hash=content_hash)
    scorer = ThreadPoolExecutor(1, "reward")  # one thread is also the lock
    app = bare_app("loopwright reward server", lambda status, sentence: Refusal(error=sentence).model_dump())

    @app.get("/health")
    async def health(request: Request) -> Response:
        admit(request, token)
        return json_response(Health(model=served, scores_text=True).model_dump())

    @app.post("/score")
    async def score(request: Request) -> Response:
        admit(request, token)
        asked = _parse(await read_body(request, limits.body_bytes, "send fewer samples at once"), limits)
        samples = [_sample(sample) for sample in asked.samples]
        try:
            scores = await asyncio.get_running_loop().run_in_executor(scorer, _scores, reward, samples)
        except asyncio.CancelledError:  # clients come back after 503, and not after the 500 that this would become
            raise HTTPException(503, "the server is stopping") from None
        return json_response(_reply(served, asked, scores).model_dump())

    return app


def _parse(body: bytes, limits: Limits) -> ScoreRequest:
    """Raises HTTPException (413, 422)."""
    version = parse(Version, body, PAGE).protocol
    if version != PROTOCOL:
        raise HTTPException(422, f"the request is in version {version} of the protocol; this server speaks {PROTOCOL}")
    asked = parse(ScoreRequest, body, PAGE)
    if len(asked.samples) > limits.samples:
        raise HTTPException(413, f"the request has {len(asked.samples)} samples; send at most {limits.samples} at once")
    for number, sample in enumerate(asked.samples):
        longest = max(sum(len(message.content) for message in sample.prompt.messages), len(sample.response))
        if longest > limits.characters:
            raise HTTPException(
                413, f"samples[{number}] has {longest} characters; at most {limits.characters} are read"
            )
    return asked


def _sample(asked: TextSample) -> Sample:
    return Sample(asked.prompt, asked.response, prompt_ids=[], response_ids=[], finished=asked.finished, tokenizer=None)


def _scores(reward: Reward, samples: list[Sample]) -> Scores:
    """Raises HTTPException: 422 where the samples are to blame, 500 where the reward is."""
    try:
        scores = reward.score(samples).cpu()
        for part in (scores.total, *scores.parts.values(), *([] if scores.std is None else [scores.std])):
            check_scores(reward.name, part, samples)
    except (CheckError, RewardError) as error:
        raise HTTPException(500, str(error)) from error
    except LoopwrightError as error:
        raise HTTPException(422, str(error)) from error
    except Exception as error:
        _log.exception("reward %s failed", reward.name)
        raise HTTPException(500, f"the reward failed ({type(error).__name__}); its server's log says more") from error
    if scores.per_token is not None:
        raise HTTPException(500, f"reward {reward.name} scores single tokens, which mean nothing to another machine")
    return scores


def _reply(served: ServedModel, asked: ScoreRequest, scores: Scores) -> ScoreReply:
    return ScoreReply(
        model=served,
        ids=[sample.id for sample in asked.samples],
        scores=scores.total.tolist(),
        std=None if scores.std is None else scores.std.tolist(),
        parts={name: part.tolist() for name, part in scores.parts.items()},
    )
