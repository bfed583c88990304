"""The page on which people talk with a model and say what they think of its answers."""

from fastapi import APIRouter, HTTPException, Request
from starlette.responses import Response

from loopwright.feedback.kinds import FORMS
from loopwright.feedback.store.projects import newest_guideline
from loopwright.feedback.web.admission import LabelsInProject, database_of
from loopwright.feedback.web.rendering import page
from loopwright.feedback.web.text import render

router = APIRouter(include_in_schema=False)


@router.get("/projects/{project}/chat")
def chat(request: Request, member: LabelsInProject) -> Response:
    if not FORMS[member.project.config.kind].written:
        raise HTTPException(404, "there is nobody to talk to in this project")
    guideline = database_of(request).read(lambda connection: newest_guideline(connection, member.project.id))
    return page(
        request, "chat.html", caller=member.caller, project=member.project,
        guideline=None if guideline is None else render(guideline.text),
    )  # fmt: skip
