"""What the three roles are told, in two wordings: the paper's own (Figs. 8 to 10), and ours in few words.

    PROMPTS["paper"]["toolbench"].reasoner

Every sequence carries these texts, so the short ones are the default. An adapter is asked in the wording that
it was trained with.

The figures are blocks of "System:", "Reasoner:", "Executor:" and "Summarizer:". What the frame realises:

    System:           the header of the system turn
    Reasoner: ...     the role's text, heading included, in the system turn; its tokens are the role's own
    [doc]             the schemas of the tools, each with a newline; the paper does not show their form
    Next: executor.   the last line of a reasoner's turn; Fig. 8 prints no such line, and Fig. 6, by which its
                      data were completed, prints it without the full stop
    [unused11]        a token where the model has it, text elsewhere

The user's query and the history, of which the texts speak, are turns. Line breaks within a text are lost in
the copy of the paper that we have: each text is one line.
"""

from typing import NamedTuple

from formats.calls import CLOSE, KEYWORDS, OPEN


class Prompts(NamedTuple):
    """The texts of one domain. tools: where [doc] stands for the schemas. ending: a reasoner's last line."""

    system: str
    tools: str
    reasoner: str
    executor: str
    summarizer: str
    ending: str


# ---- ours ----

TAGS = "\n<tools>\n[doc]</tools>"
REASONER = (
    "Reasoner: study the query and the history; do not answer. Say what is still to be done and how, then "
    "end strictly with the line Next: executor, or Next: summarizer if all is done or enough attempts failed."
)
EXECUTOR = "Executor: do what the query and the reasoner say. Output only "
CALLING = f"calls, each as {OPEN}Action: NAME %s: {{JSON}}{CLOSE}, separated by commas."
CODING = "Python code that prints the result."
SUMMARIZER = (
    "Summarizer: tell the user the outcome in a few plain words, from the observations if there are any, "
    "else from the conversation."
)


def short(system: str, output: str) -> Prompts:
    """The content of the figures, shortened. output: what the executor writes."""
    return Prompts(system, TAGS, REASONER, EXECUTOR + output, SUMMARIZER, "Next: {}")


SHORT = {
    "bfcl": short("You can call the functions within the tools tags.", CALLING % KEYWORDS["bfcl"]),
    "toolbench": short("You can call the APIs within the tools tags.", CALLING % KEYWORDS["toolbench"]),
    "math": short("You solve the user's problem with Python.", CODING),
}

# ---- the paper's, word for word, with its slips ("executot", the quotation mark that Fig. 9 lacks) ----

FIGURE_8 = Prompts(
    system="You have access to the following APIs within XML tags:",
    tools="<<tools>>[doc]<</tools>>",
    reasoner=(
        "Reasoner: Your role is a reasoner with reasoning capabilities, and you have the ability to analyze "
        "the current task status based on user queries and conversation history, and decide which role to "
        "call next. Please note the following: 1. You do not need to directly generate task answers, you "
        "only need to analyze and think about the solution approach that can complete the task based on the "
        "current status. 2. If you believe that the Executor has completed the task in the historical "
        "conversation, designate the next role as summarizer to provide a summary. 3. If you believe the "
        "executor has not yet completed the task, analyze and output the correct solution approach, and "
        "designate the next role as executor to carry out a detailed solution. Please output in the "
        "following format: The solution approach after thoughtful analysis. Next: Choose the next role to "
        "call, either executor or summarizer."
    ),
    executor=(
        "Executor: Your role is an executor, and you have the capability to provide specific api calling to "
        "tasks based on user queries and the analysis provided by the reasoner. Please directly output the "
        "correct api tool and its parameters with the following format: "
        "[unused11]Action: <<function-name>> Arguments: <<args-dict>>[unused12] "
        "Please strictly adhere to the above format for output."
    ),
    summarizer=(
        "Summarizer: Your role is a summarizer, and you have the ability to produce summaries based on user "
        "queries and the dialogue history. Please strictly adhere to the following rules: 1. If the task "
        "involves tool invocation and there are actual tool invocation return observation results in the "
        "historical conversation, you can provide a concise summary of the tool invocation feedback results "
        "in natural language. 2. If the task does not involve tool invocation, you can summarize the "
        "information you have received to answer the user’s queries."
    ),
    ending="Next: {}",
)
FIGURE_9 = Prompts(
    system=FIGURE_8.system,
    tools=FIGURE_8.tools,
    reasoner=(
        "Reasoner: Your role is a reasoner with reasoning capabilities; you have the ability to analyze the "
        "current task status based on user queries and conversation history, and decide which role to call "
        "next. Please note the following: 1. You do not need to directly generate task answers; you only "
        "need to analyze and think about the solution approach that can complete the task based on the "
        "current status. 2. If you believe that the Executor has completed the task in the historical "
        "conversation, designate the next role as summarizer to provide a summary. 3. If you believe the "
        "executor has not yet completed the task, analyze and output the correct solution approach, and "
        "designate the next role as executor to carry out a detailed solution. Please output in the "
        "following format: The solution approach after thoughtful analysis. Next: Choose the next role to "
        "call, either executor or summarizer. Please strictly adhere to the above format for output, and "
        "end with either ”Next: executor.” or ”Next: summarizer."
    ),
    executor=FIGURE_8.executor.replace("Arguments:", "Action-Input:"),
    summarizer=FIGURE_8.summarizer,
    ending="Next: {}.",
)
FIGURE_10 = Prompts(
    system="You have the capability to address the following user’s query.",
    tools=FIGURE_8.tools,  # the figure has none
    reasoner=FIGURE_9.reasoner.replace("the Executor", "the executor") + "”",
    executor=(
        "Executor: Your role is an executor. You have the capability to generate specific Python code based "
        "on the conversation history and the output of the executot to address the user’s query. Please "
        "directly generate a segment of Python code."
    ),
    summarizer=(
        "Summarizer: Your role is a summarizer, and you have the ability to produce summaries based on user "
        "queries and the dialogue history."
    ),
    ending="Next: {}.",
)

PROMPTS = {
    "short": SHORT,
    "paper": {"bfcl": FIGURE_8, "toolbench": FIGURE_9, "math": FIGURE_10},
}
