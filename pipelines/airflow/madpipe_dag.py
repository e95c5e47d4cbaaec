"""fit -> evaluate -> promote if better -> score, once a week: each task is one `madpipe` command.

What it works on are the DAG's parameters, which a run may be given others of. The tracking server and its password come
from the worker's environment (MLFLOW_TRACKING_URI and its kin).
"""

from datetime import datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, Param

with DAG(
    "madpipe",
    schedule="@weekly",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=2)},
    params={
        "config": Param("/models/config.yaml", type="string", description="what is fitted"),
        "model": Param("my-model", type="string", description="its registered name: the config's experiment"),
        "labelled": Param(
            "/models/labelled.npz", type="string", description="what candidate and champion are judged on"
        ),
        "inputs": Param("/results/incoming", type="string", description="the folder of the files to score"),
        "results": Param("/results", type="string", description="where pipelines and scores go"),
    },
    doc_md=__doc__,
):
    fit = BashOperator(
        task_id="fit",
        bash_command="madpipe fit '{{ params.config }}' -o '{{ params.results }}/pipeline-{{ ds }}' --overwrite",
    )
    evaluate = BashOperator(
        task_id="evaluate",
        bash_command=(
            "madpipe evaluate --pipeline 'models:/{{ params.model }}@candidate' --trust-code --log"
            " '{{ params.labelled }}'"
        ),
    )
    evaluate_champion = BashOperator(
        task_id="evaluate_champion",
        bash_command=(
            "madpipe evaluate --pipeline 'models:/{{ params.model }}@champion' --trust-code --log"
            " '{{ params.labelled }}'"
        ),
    )
    promote = BashOperator(
        task_id="promote",
        bash_command="madpipe promote '{{ params.model }}' @candidate --if-better auroc --trust-code",
    )
    score = BashOperator(
        task_id="score",
        bash_command=(
            "madpipe score --pipeline 'models:/{{ params.model }}@champion' --trust-code"
            " '{{ params.inputs }}' -o '{{ params.results }}/scores/' --since last"
        ),
    )
    fit >> evaluate >> evaluate_champion >> promote >> score
