from sidbench.benchmark.api.boards import Board as Board
from sidbench.benchmark.api.boards import load_board as load_board
from sidbench.benchmark.api.comparing import ComparedRows as ComparedRows
from sidbench.benchmark.api.comparing import compare as compare
from sidbench.benchmark.api.data import ImportedDataset as ImportedDataset
from sidbench.benchmark.api.data import dataset_from_frames as dataset_from_frames
from sidbench.benchmark.api.features import features_from_arrays as features_from_arrays
from sidbench.benchmark.api.listing import list_datasets as list_datasets
from sidbench.benchmark.api.listing import list_recommenders as list_recommenders
from sidbench.benchmark.api.listing import list_tokenizers as list_tokenizers
from sidbench.benchmark.api.measuring import measure as measure
from sidbench.benchmark.api.results import FinishedRun as FinishedRun
from sidbench.benchmark.api.results import Results as Results
from sidbench.benchmark.api.results import results as results
from sidbench.benchmark.api.running import run as run
from sidbench.benchmark.api.tokenizers import SidTokenizer as SidTokenizer
from sidbench.benchmark.api.tokenizers import load_tokenizer as load_tokenizer
from sidbench.benchmark.api.tokenizers import tokenizer as tokenizer
from sidbench.benchmark.plugins.live import register as register
from sidbench.datasets.features.base import ItemFeatures as ItemFeatures
from sidbench.datasets.foundation.errors import InputError as InputError
from sidbench.datasets.foundation.errors import SidbenchError as SidbenchError
from sidbench.tokenizers.base import SemanticIds as SemanticIds

__version__: str
