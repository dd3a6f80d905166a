"""The words of neighbouring tools, each with ours: Ray Tune's, Optuna's, W&B's, nanoGPT's, HF Trainer's.

    hint("lr", TrainConfig.model_fields)      # did you mean learning_rate?

A word means one of ours only where ours is allowed: `grid_search` is a parameter's choice, and the grid of a sampler.
"""

from __future__ import annotations

from collections.abc import Iterable

from data.errors import nearest

_TABLE = """
# a config's keys. Each line: ours = theirs (what to know beside)
learning_rate = lr max_lr peak_lr base_lr init_lr initial_lr step_size eta
weight_decay = wd decay l2 weight_decay_rate
beta1 = adam_beta1
beta2 = adam_beta2
grad_clip = max_grad_norm clip clip_grad clip_grad_norm gradient_clip_val
n_layer = layers n_layers num_layers num_hidden_layers depth n_blocks num_blocks
n_head = heads n_heads num_heads nhead num_attention_heads attention_heads
n_embd = width hidden_size d_model dim hidden_dim embed_dim embedding_size n_embed hidden
block_size = ctx context context_length context_size seq_len sequence_length max_seq_len max_seq_length n_ctx max_length
block_size = n_positions max_position_embeddings
batch_size = bs batch per_device_train_batch_size train_batch_size device_batch_size micro_batch_size
gradient_accumulation_steps = grad_accum accumulation_steps accumulate_grad_batches
max_tokens = tokens train_tokens num_tokens max_t length
max_tokens = epochs num_epochs n_epochs max_epochs num_train_epochs (max_tokens: 7 epochs)
max_tokens = steps max_steps n_steps num_steps total_steps train_steps iters (in tokens)
max_tokens = max_iters num_iterations iterations lr_decay_iters (in tokens)
warmup_frac = warmup warm_up warmup_iters warmup_steps num_warmup_steps (a fraction of the run)
warmup_frac = warmup_ratio
decay_frac = cooldown cooldown_frac cooldown_steps warmdown decay_steps (a fraction of the run)
min_lr_frac = min_lr lr_min min_learning_rate end_lr final_lr (a fraction of learning_rate)
min_lr_frac = min_lr_ratio
schedule = lr_schedule lr_scheduler lr_scheduler_type learning_rate_schedule decay_lr
eval_every = eval_interval eval_steps eval_strategy evaluation_strategy eval_freq val_every (in tokens)
eval_tokens = eval_iters max_eval_samples val_tokens (in tokens)
eval_batch_size = per_device_eval_batch_size val_batch_size
checkpoint_every = save_steps save_every save_interval save_strategy checkpoint_interval (in tokens)
checkpoint_every = always_save_checkpoint (by default a checkpoint is kept with every report)
early_stop = patience early_stopping early_stopping_patience
corpus = dataset data dataset_name dataset_path data_dir train_file text
init_from = model_name_or_path pretrained checkpoint resume_from
dtype = precision mixed_precision bf16 fp16 amp torch_dtype
compile = torch_compile use_compile
optimizer = optim optimiser opt
loss = loss_fn criterion loss_function
dropout = drop resid_pdrop attn_pdrop embd_pdrop hidden_dropout_prob attention_dropout
tied_head = tie_word_embeddings weight_tying tie_weights
mlp = activation activation_function hidden_act
position = pos_emb position_embedding_type rotary use_rope rope
# a spec's
space = parameters params search_space param_space config hyperparameters
study = study_name experiment experiment_name sweep project
base = program base_config base_model defaults
sampler = method search_alg search_algorithm algorithm searcher strategy
objective = metric direction goal mode target minimize maximize
budget = num_samples n_trials run_cap max_trials num_trials trials (budget: {trials: 64})
budget = timeout time_budget_s hours (budget: {hours: 12})
scheduler = pruner early_terminate stopper stopping
resources = resources_per_trial cpus gpus num_cpus num_gpus (resources: {cpus: 2, gpus: 0.25})
set = fixed overrides override constants
start = points_to_evaluate enqueue_trial initial_points
warm_start = prior prior_runs
at_once = max_concurrent_trials max_concurrent n_jobs concurrency parallel workers
trials = num_samples n_trials run_cap max_trials num_trials samples runs
hours = timeout time_budget_s time minutes max_time (in hours)
top = n best k top_k count
seeds = seed n_seeds repeats rounds
# a parameter's
log = loguniform log_uniform log_uniform_values qloguniform lograndint qlograndint suggest_loguniform log_range
uniform = range float suggest_float suggest_uniform quniform q_uniform linear
uniform = int randint suggest_int integer qrandint int_uniform (uniform: [low, high] is whole where its key is)
uniform = min max low high lower upper (uniform: [low, high])
choice = grid_search categorical suggest_categorical values value options choices grid enum
choice = distribution type sample_from step q ({log: [low, high]}, {uniform: [low, high]} or {choice: [...]})
when = if condition only_if where depends_on parent
field = key name target
# a stopping rule's
asha = hyperband ashascheduler asha_scheduler async_hyperband successive_halving sha
median = medianpruner median_pruner medianstoppingrule median_stopping_rule
first_rung = grace_period min_resource min_iter min_t n_warmup_steps first rung (in tokens)
factor = reduction_factor eta rf
min_trials = n_startup_trials min_samples_required
every = interval interval_steps (in tokens)
# values
tpe = bayes bayesian tpesampler optuna hyperopt bayesopt bohb
gp = gpsampler gaussian_process botorch
random = randomsampler random_search
grid = gridsampler grid_search
adamw = adam adamw_torch adamw_torch_fused
cross_entropy = ce crossentropy crossentropyloss nll log_loss softmax
val_perplexity = perplexity ppl loss val_loss eval_loss eval/loss
val_bits_per_byte = bpb val_bpb bits_per_byte
bfloat16 = bf16 fp16 float16 half mixed
float32 = fp32 tf32 float
cuda = gpu nvidia cuda:0
wsd = trapezoidal warmup_stable_decay
constant = constant_with_warmup
rope = rotary
"""


def _read(table: str) -> dict[str, dict[str, str]]:
    """{ours: {theirs: note}}."""
    words: dict[str, dict[str, str]] = {}
    for line in table.strip().splitlines():
        if line.startswith("#"):
            continue
        ours, _, rest = line.partition(" = ")
        theirs, _, note = rest.partition(" (")
        words.setdefault(ours, {}).update(dict.fromkeys(theirs.split(), f"({note}" if note else ""))
    return words


WORDS = _read(_TABLE)


def near(word: str, allowed: Iterable[str]) -> str:
    """`did you mean X?` for a neighbour's word for an allowed one, or for a similar one; empty where none is.

    >>> near("n_layers", ["n_layer"]), near("epochs", ["max_tokens"]), near("epochs", ["n_layer"])
    ('did you mean n_layer?', 'did you mean max_tokens? (max_tokens: 7 epochs)', '')
    """
    names, spelled = set(allowed), word.strip().lower().replace("-", "_")
    if spelled in names:
        return f"did you mean {spelled}?"
    for ours in sorted(names & WORDS.keys()):
        if spelled in WORDS[ours]:
            return f"did you mean {ours}? {WORDS[ours][spelled]}".rstrip()
    answer = nearest(word, names) if names else ""
    return answer if answer.startswith("did you mean") else ""


def hint(word: str, allowed: Iterable[str]) -> str:
    """The same, or the list of what is allowed where none is similar."""
    names = list(allowed)
    return near(word, names) or nearest(word, names)
