#!/usr/bin/env bash
# Shows that the loom models can fail. Weakens each ordering of src/protocols/remote.rs, src/protocols/lock.rs,
# src/protocols/roll.rs and object-pool/src/magazine.rs in turn, and breaks the
# order of their calls in a few ways, in a copy of the repository, and prints which models notice.
#
#   tests/loom_mutations.sh [pattern]     only the mutations whose "file:line" or name matches
#
# LOOM_MODELS (a pattern) runs only the models whose name matches: for a quick look at some rows.
# One row a mutation; the last column names the models that failed, or says "survived". docs/loom.md explains the
# survivors. LOOM_MAX_PREEMPTIONS (default here: 3, less than the models' own) bounds the search.
set -euo pipefail
cd "$(dirname "$0")/.."
repo=$PWD
pattern=${1:-.}
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT

export RUSTFLAGS="--cfg pymalloc_loom"
export CARGO_TARGET_DIR="$repo/target/loom-mutations"
export LOOM_MAX_PREEMPTIONS=${LOOM_MAX_PREEMPTIONS:-3}

fresh() {
    rm -rf "$copy/repo"
    mkdir "$copy/repo"
    # With new times: cargo rebuilds by them, and a mended file must count as changed.
    tar -C "$repo" --exclude=./target --exclude=./.git -cf - . | tar -C "$copy/repo" -xmf -
}

# Builds the models in the copy and prints the row of one mutation.
row() { # place, what
    local binary killers="" test package=pymalloc
    [[ $1 != object-pool/* ]] || package=pymalloc-object-pool
    if ! binary=$(cd "$copy/repo" && nice cargo test --release -p $package --test loom --no-run --message-format=json 2>"$copy/log" |
        sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -1) || [ -z "$binary" ]; then
        printf '| %s | %s | does not compile |\n' "$1" "$2"
        sed 's/^/    /' "$copy/log" >&2
        return
    fi
    # One process a model: a panic inside a panic takes its process with it.
    while read -r test; do
        if ! timeout 300 nice "$binary" --exact "$test" >/dev/null 2>&1; then
            killers+="${killers:+, }${test#*::}"
        fi
    done < <("$binary" --list 2>/dev/null | sed -n 's/: test$//p' | grep -E "${LOOM_MODELS:-.}")
    printf '| %s | %s | %s |\n' "$1" "$2" "${killers:-survived}"
}

# Weakens the ordering `from` in a line of a file.
weaken() { # file, line, from, to
    [[ "$1:$2 $3→$4" =~ $pattern ]] || return 0
    fresh
    sed -i "$2s/Ordering::$3/Ordering::$4/" "$copy/repo/$1"
    row "$1:$2 \`$(enclosing "$1" "$2")\`" "$3 → $4"
}

# The function that a line is in.
enclosing() { # file, line
    head -n "$2" "$repo/$1" | grep -oE 'fn [a-z_]+' | tail -1 | cut -c4-
}

# Applies a Perl substitution to a whole file.
break_by() { # file, name, substitution
    [[ "$1 $2" =~ $pattern ]] || return 0
    fresh
    perl -0pi -e "$3" "$copy/repo/$1"
    if cmp -s "$repo/$1" "$copy/repo/$1"; then
        printf '| %s | %s | no longer applies |\n' "$1" "$2"
        return
    fi
    row "$1" "$2"
}

printf '| place | mutation | models that fail |\n|---|---|---|\n'
fresh
[[ none =~ $pattern ]] && row "–" "none"

for file in src/protocols/remote.rs src/protocols/lock.rs src/protocols/roll.rs object-pool/src/magazine.rs tests/loom/publication.rs tests/loom/states.rs \
    tests/loom/walks.rs; do
    while IFS=: read -r line text; do
        case $text in
        *Ordering::AcqRel*) weakenings="AcqRel:Release AcqRel:Acquire AcqRel:Relaxed" ;;
        *Ordering::Acquire*) weakenings="Acquire:Relaxed" ;;
        *Ordering::Release*) weakenings="Release:Relaxed" ;;
        esac
        for weakening in $weakenings; do
            weaken "$file" "$line" "${weakening%:*}" "${weakening#*:}"
        done
    done < <(grep -nE 'Ordering::(AcqRel|Acquire|Release)' "$file" | grep -vE '^[0-9]+: *//')
done

lock=src/protocols/lock.rs
break_by $lock "release wakes nobody" 's/(fn look_back.*?)futex_wake\(&self\.state\);/$1let _ = futex_wake;/s'
break_by $lock "release wakes only from HELD" 's/(fn look_back.*?)if before & AWAITED != 0/$1if before == HELD/s'
break_by $lock "a waiter marks the lock HELD, not AWAITED" 's/fetch_or\(HELD \| AWAITED/fetch_or(HELD/'
break_by $lock "try_lock always succeeds" 's/\(before & SHUT == 0 && this_thread_forks\(\)\)/(before \& SHUT == 0)/'
break_by $lock "a thread that finds the lock held leaves no knock" 's/before \| KNOCKED \}/before }/'
break_by $lock "a thread that leaves the lock does not look for a knock" 's/before & KNOCKED != 0\n    \}/false\n    }/'
break_by $lock "a waiter wipes the knock" 's/fetch_or\(HELD \| AWAITED/swap(HELD | AWAITED/'
break_by $lock "a knock that stands is not written again" \
    's/(let after = if before == FREE)/if before & KNOCKED != 0 { return None; } $1/'
break_by $lock "a thread that waits for a lock that is shut wakes no other sleeper as it goes" \
    's/(another sleeper, which has to give up, too\.\n *)futex_wake\(&self\.state\);/$1/'
break_by $lock "a thread that shuts a lock wakes nobody" 's/futex_wake\(&guard\.lock\.state\);//'
break_by $lock "a thread that waits for a lock does not see that it is shut" 's/before & SHUT != 0 && !is_patient/false/g'
break_by $lock "a knock is left at a lock that is shut" 's/if before & SHUT != 0 \{\n *return None;\n *\}//'

roll=src/protocols/roll.rs
break_by $roll "the number is raised before the place is written" \
    's/( *place\.store\(thing.*?\n)(.*?)( *self\.count\.store\(count \+ 1.*?\n)/$3$1$2/s'
break_by $roll "the number is lowered before the last has its new place" \
    's/( *let mut moved = None;\n)(.*?)( *self\.count\.store\(last, Ordering::Release\);\n)/$3$1$2/s'
break_by $roll "a walk goes upwards" 's/\(0\.\.self\.count\(\)\)\.rev\(\)/(0..self.count())/'

summons=src/protocols/summons.rs
break_by $summons "a call is told without Release" 's/self\.word\.store\(call\.word\(CALLED\), Ordering::Release\)/self.word.store(call.word(CALLED), Ordering::Relaxed)/'
break_by $summons "who arrives does not look whether it is called" 's/if arrives\.is_err\(\) \{\n *return;\n *\}/let _ = arrives;/'
break_by $summons "who stands says so without Release" 's/self\.word\.store\(standing, Ordering::Release\)/self.word.store(standing, Ordering::Relaxed)/'
break_by $summons "who stands does not wait" 's/while self\.word\.load\(Ordering::Acquire\) == standing \{.*?\n        \}//s'
break_by $summons "the caller gives up whatever the thread does" 's/if given_up \{/if given_up || true {/'
break_by $summons "a dismissal is without Release" 's/self\.word\.store\(FREE, Ordering::Release\)/self.word.store(FREE, Ordering::Relaxed)/'
break_by $summons "a dismissal wakes nobody" 's/(self\.word\.store\(FREE, Ordering::Release\);\n *)futex_wake\(&self\.word\);/$1/'

remote=src/protocols/remote.rs
break_by $remote "claim does not ask for a count of 0" \
    's/self\.count\.compare_exchange\(0, 1, Ordering::Acquire, Ordering::Relaxed\)\.is_ok\(\)/{ self.count.fetch_add(1, Ordering::Acquire); true }/'
break_by $remote "every arrival is the first" 's/before => Arrival::Later\(before\.wrapping_add\(blocks\)\)/_ => Arrival::First/'
break_by $remote "the link is read after the count was collected" \
    's/next: \*mut RemoteHalf,/next: *mut RemoteHalf, last: *mut RemoteHalf,/; s/(Taken \{ next: self\.head\.(?:swap|load)\([^}]*)\}/$1, last: ptr::null_mut() }/g; s/let pool = NonNull::new\(self\.next\)\?;/if !self.last.is_null() { self.next = unsafe { &*self.last }.link.load(Ordering::Relaxed); } let pool = NonNull::new(self.next)?; self.last = self.next;/; s/self\.next = half\.link\.load\(Ordering::Relaxed\);//'
break_by $remote "collect leaves the bits" 's/self\.0\.swap\(0, Ordering::Acquire\)/self.0.load(Ordering::Acquire)/'

break_by $remote "pushes are uncounted after the take" \
    's/        self\.pushes\.swap\(0, Ordering::Acquire\);\n(.*?)Taken \{ next: (self\.head\.swap\(ptr::null_mut\(\), Ordering::Acquire\)) \}/$1let next = $2; self.pushes.swap(0, Ordering::Acquire); Taken { next }/s'

# The order of the calls, which pool_set/ has like the models.
world=tests/loom/world.rs
break_by $world "a thread that answers a knock does not look for the next" 's/if !guard\.leave\(\) \{\n                return;/let _ = guard.leave(); {\n                return;/'
break_by $world "a thread that lets all doors go answers no knock" 's/if knocked \{/if knocked \&\& false {/'
break_by $world "the owner is read before the arrival" \
    's/(match pool\.touch\(\|pool\| pool\.remote\.arrive)/let owner = pool.touch(|pool| pool.tag.load(Ordering::Relaxed)); $1/; s/\n *\/\/ Relaxed: as in the product\.\n *let owner = pool\.touch\(\|pool\| pool\.tag\.load\(Ordering::Relaxed\)\);//'
break_by $world "the count arrives before the bits are set" \
    's/if !pool\.touch\(\|pool\| pool\.words\[word\]\.free\(mask\)\) \{.*?return;\n *\}\n *match pool\.touch\(\|pool\| pool\.remote\.arrive\(mask\.count_ones\(\)\)\) \{/let arrival = pool.touch(|pool| pool.remote.arrive(mask.count_ones())); let _ = pool.touch(|pool| pool.words[word].free(mask)); match arrival {/s'
break_by $world "words are collected before the count" \
    's/(let blocks = pool\.touch\(\|pool\| pool\.remote\.collect_count\(\)\);\n *assert_ne)/self.collect_words(pool); $1/; s/(fn collect_pool.*?)self\.collect_words\(pool\);/$1/s'
break_by $world "bits decide when a pool is empty" \
    's/if used == 0 && self\.unmaps/let _ = used; let free: u32 = pool.owned(|owned| owned.free.iter().map(|word| word.count_ones()).sum()); if free as usize == pool.blocks.len() \&\& self.unmaps/'
break_by $world "a thief does not claim" \
    's/ && pool\.touch\(\|pool\| pool\.remote\.claim\(\)\)//; s/collect_count\(\)\)\.wrapping_sub\(1\)/collect_count())/'
break_by $world "a thief collects the count before it writes the owner" \
    's/( *\/\/ Relaxed: as in the product\.\n *pool\.touch\(\|pool\| pool\.tag\.store\(thief, Ordering::Relaxed\)\);\n)(.*?wrapping_sub\(1\);\n)/$2$1/s'
break_by $world "a thief does not take the victim's door" \
    's/let mut guard = self\.sets\[victim\]\.door\.try_lock\(\)\?;\n *guard\.with\(/unsafe { self.sets[victim].door.with_held(/; s/(self\.steal_partial\(thief, own, theirs\)\n *\}\))/$1 }/'
break_by $world "a bit that is set already goes unseen" 's/if !(pool\.touch\(\|pool\| pool\.words\[word\]\.free\(mask\)\)) \{/let _ = $1; if false {/'
break_by $world "a block that is free already is put back unseen" 's/if owned\.free\[word\] & mask != 0/if false/'

# The same for cache/ and heap/.
poison=tests/loom/poison.rs
break_by $poison "growing a magazine forgets the poison" \
    's/(self\.top\.store\(SECOND_ARRAY, Ordering::Relaxed\);\s*)self\.set_bounds\(shape\);/$1let poisoned = core::mem::take(&mut shape.poisoned); self.set_bounds(shape); shape.poisoned = poisoned;/'
break_by $poison "the fast path writes its ceiling" \
    's/(        self\.top\.store\(top \+ 1, Ordering::Release\);)/let ceiling = self.ceiling.load(Ordering::Relaxed); self.ceiling.store(ceiling, Ordering::Relaxed); $1/'
break_by $poison "the poison is set without the door" 's/self\.door\.lock\(\)\.with\(\|shape\| \{\s*(shape\.poisoned = poisoned;\s*self\.set_bounds\(shape\);\s*)\}\);/unsafe { self.door.with_held(|shape| { $1 }) }/'
break_by $poison "a newcomer asks for the poison before it is registered" \
    's/self\.register\(number\);\s*(self\.caches\[number\]\.door\.lock\(\)\.with\(\|poisoned\| \*poisoned =) self\.poisons\.load\(Ordering::Relaxed\) != 0\);/let poisons = self.poisons.load(Ordering::Relaxed) != 0; self.register(number); $1 poisons);/'
break_by $poison "the poison is announced after the walk" \
    's/(self\.state\.lock\(\)\.with\(\|\(\)\| self\.poisons\.store.*?\n)(\s*for cache in self\.sets\.walk\(\) \{.*?\n        \}\n)/$2$1/s'

bare=tests/loom/bare.rs
break_by $bare "a thread that stops all doors does not look for newcomers" 's/if self\.walk\(\)\.iter\(\)\.all.*?\{/if true {/'
break_by $bare "a bare set's door is opened before the set is in the register" \
    's/( *self\.register\(set, state\);\n)(.*?unsafe \{ this\.door\.open\(\) \};\n)/$2$1/s'
break_by $bare "a bare set's door is opened after the heap's lock is let go" \
    's/(let set = self\.state\.lock\(\)\.with\(\|state\| \{\n *let set = state\.parked\.pop)/let mut bare = false; $1/; s/( *\/\/ SAFETY: shut as long.*?\n *unsafe \{ this\.door\.open\(\) \};\n)(.*?Some\(set\)\n *\}\)\?;\n)/bare = true;\n$2if bare { unsafe { self.sets[set].door.open() } }\n/s'
break_by $bare "a set that is not in the list becomes bare" 's/if !this\.is_listed\.with/if false \&\& !this.is_listed.with/'
break_by $bare "a bare set's door is left open" 's/guard\.shut\(\);/let _ = guard.leave();/'

# The same for trace/.
session=tests/loom/session.rs
break_by $session "the session is announced before the poison" 's/self\.set_poison\(1\);(.*?)(self\.session\.store\(session, Ordering::Release\);)/$1 $2 self.set_poison(1);/s'
break_by $session "the session is announced before the tracer is wanted" 's/(self\.wanted\.store\(1, Ordering::Relaxed\);)\s*(self\.session\.store\(session, Ordering::Release\);)/$2 $1/'
break_by $session "the session is announced without Release" 's/self\.session\.store\(session, Ordering::Release\)/self.session.store(session, Ordering::Relaxed)/'
break_by $session "an allocation reads the session without Acquire" 's/self\.session\.load\(Ordering::Acquire\)/self.session.load(Ordering::Relaxed)/'
break_by $session "the table does not ask for the session" 's/if table\.session == session/if table.session == session || true/'
intervals=tests/loom/intervals.rs
break_by $intervals "a free is told under the interval that it is in" 's/shard\.changes\[birth\] -= 1/shard.changes[shard.interval_now] -= 1/'
break_by $intervals "a sample leaves what it has told" 's/core::mem::take\(&mut shard\.changes\)/shard.changes/'
# The rest of what is looked up without a lock, and what the purge thread does.
publication=tests/loom/publication.rs
break_by $publication "an arena is in the map before its metadata is there" \
    's/( *self\.metadata\.with_mut.*?\n)( *self\.leaf\.store.*?\n)/$2$1/'
break_by $publication "a free raises the top before it fills the slot" \
    's/( *self\.slots\[top\]\.store.*?\n)( *self\.top\.store\(top \+ 1.*?\n)/$2$1/'
break_by $publication "a thread that loses the race to make it keeps its own" 's/map_or_else\(\|first\| first,/map_or_else(|_| thread,/'
break_by $publication "a report that finds another printing is forgotten" \
    's/self\.wanted\.fetch_or\(REPORT, Ordering::Relaxed\);(\s*\}\s*\})/$1/'
break_by $publication "two threads print at once" 's/if self\.printing\.compare_exchange.*?\{/if self.printing.compare_exchange(NONE, PRINTS, success, Ordering::Relaxed).is_err() \&\& false {/'
classes=tests/loom/classes.rs
break_by $classes "the thread that enters the next pool moves the window" \
    's/let _ = self\.last\.compare_exchange.*?;/self.last.store(last, Ordering::Relaxed);/'
break_by $classes "a block is handed out before its pool is in the map" \
    's/( *self\.map\.enter.*?\n)( *self\.passed\[index\]\.store.*?\n)/$2$1/'
break_by $classes "a pool gets its next class before its blocks are home" 's/if door\.lock\(\)\.with\(\|home\| \*home\)/if true/'
break_by $classes "a pool leaves the map after its arena may be unmapped" \
    's/( *map\.leave.*?\n)( *\*back = true;\n *\}\);\n)/$2$1/'
# The feature `hardened`. What orders a block's way home does so twice; so one ordering alone shows nothing.
break_by $remote "neither bits nor counts order anything" 's/Ordering::(AcqRel|Acquire|Release)/Ordering::Relaxed/g'
state=src/protocols/block_state.rs
break_by $state "a free leaves the block live" 's/        self\.0\.store\(FREED, Ordering::Relaxed\);\n//'
break_by $state "a free does not look" 's/self\.check\(class\)\?;//'
break_by $state "a thread that hands a block out does not say so" 's/        self\.0\.store\(LIVE \| class, Ordering::Relaxed\);\n//'
states=tests/loom/states.rs
break_by $states "a block goes home before it is marked" 's/( *assert!\(other\.free\(\).*?\n)( *other\.go_home\(\);\n)/$2$1/'
break_by $states "a shelf is emptied after the top is raised" 's/( *self\.shelf\.iter\(\)\.for_each.*?\n)( *self\.top\.store\(2.*?\n)/$2$1/'
break_by $states "a block is freed before it is taken" 's/( *self\.top\.store\(1.*?\n)(.*?push\n)/$2$1/s'
idle=tests/loom/idle.rs
break_by $idle "a tick empties the magazine, too" \
    's/(cold\.home \+= core::mem::take\(&mut cold\.stowed\);)/$1 cold.home += self.top.swap(0, Ordering::AcqRel);/'
break_by $idle "a tick does not take the door" \
    's/(fn tick\(&self\) \{\s*)self\.door\.lock\(\)\.with\(\|cold\| \{(.*?)\n        \}\);\n    \}\n\}/$1unsafe { self.door.with_held(|cold: &mut Cold| {$2\n        }) };\n    }\n}/s'
break_by $idle "a thread that starts a purge thread looks first and takes then" \
    's/let taken = self\.taken_by\.fetch_update.*?;/let by = self.taken_by.load(Ordering::Relaxed); let taken = if by == own { Err(by) } else { self.taken_by.store(own, Ordering::Relaxed); Ok(by) };/'
break_by $idle "the limit is asked for before the lock is taken" \
    's/self\.state\.lock\(\)\.with\(\|state\| \{\s*let may = state\.mapped < state\.limit;/let may = self.state.lock().with(|state| state.mapped < state.limit); self.state.lock().with(|state| {/'

walks=tests/loom/walks.rs
break_by $walks "a module is not asked for again under the lock" \
    's/(self\.table\.lock\(\)\.with\(\|table\| \{\s*let \(place, found\) = )self\.place_of\(key, load_own\)\?;/let asked = self.place_of(key, |known| known.load(Ordering::Acquire)); $1asked?;/'
break_by $walks "an address is kept before its rule" \
    's/( *self\.rules\[entry\]\.store\(rule_of.*?\n)( *self\.addresses\[entry\]\.store.*?\n)/$2$1/'
break_by $walks "stacks are kept for a session that is over" 's/ *self\.stacks\.lock\(\)\.with\(\|stacks\| \*stacks = 0\);\n//'
break_by $walks "a walk that finds all buffers taken does not wait" 's/unwrap_or_else\(\|\| self\.0\[0\]\.lock\(\)\)/expect("a free one")/'

# Object pools: the fences are the twin's, as `Visit` and `Gate` use them.
fences=object-pool/tests/loom/sync.rs
break_by $fences "the light fence orders nothing" 's/(fn light_fence\(\) \{).*?\}/$1}/s'
break_by $fences "the heavy fence orders nothing" 's/(fn heavy_fence\(\) \{).*?\}/$1}/s'
magazine=object-pool/src/magazine.rs
break_by $magazine "a thread that stops an owner does not wait for its visit to end" 's/while self\.busy\.load/if false \&\& self.busy.load/'
break_by $magazine "an owner does not look at the gate before it pops" 's/if !gate\.is_open\(\) \{/if !gate.is_open() \&\& false {/'
break_by $magazine "an owner does not look at the gate before it pushes" 's/if gate\.is_open\(\) \{ visit/if gate.is_open() || true { visit/'
stock=object-pool/src/stock/mod.rs
moves=object-pool/src/stock/moves.rs
break_by $stock "a thread that is about to wait does not stop the owners" 's/(must pass the lock\.\n *)self\.stop\(&mut state\);/$1/'
break_by $moves "the gate opens while somebody waits" 's/if state\.waiters\.is_empty\(\) \{ state\.quiet \+ 1 \}/if true { state.quiet + 1 }/'
break_by $stock "a thread that gives up keeps what was granted" 's/Some\(Grant::Idle\(item\)\) => self\.put\(None, item\),/Some(Grant::Idle(_)) => None,/'
break_by $stock "a loss lets nobody create" 's/match state\.waiters\.grant\(Grant::Create\) \{/match Err::<Waker, ()>(()) {/'
break_by $stock "a thread that ends a pool leaves the magazines alone" 's/self\.stop\(&mut state\);\n( *state\.closed = true;)/$1/'
break_by $moves "a thread that never creates looks only into the stock" 's/if state\.idle\.is_empty\(\) && !create/if false \&\& !create/'
break_by $moves "reservations are not taken back" 's/(if self\.room\(state\) == 0) && state\.reserved > 0/$1 \&\& false/'
break_by $moves "reservations are taken back if a magazine looks as if it had room" \
    's/(if self\.room\(state\) == 0) && state\.reserved > 0/$1 \&\& state.magazines.iter().any(|magazine| magazine.slack() > 0)/'
