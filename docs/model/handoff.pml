/*
 * The handoff, for spin(1). docs/model/README.md says how to run it and what each -D breaks.
 *
 * One cell, one peer that has a connection with it, and two migrations from the source, to a destination each: the second
 * is tried where the first was undone. The orchestrator may die at any instant, an agent may give up, run into a deadline
 * or crash and come back at any step: before the decision all of that is the same "abort", after it the same steps again.
 *
 * The network loses, repeats, delays and reorders. What was sent may arrive at any later time, any number of times, or
 * never: so a datagram is a flag that nothing takes back, each with a process of its own that delivers it. Only progress
 * needs that what is sent again and again arrives at last: weak fairness, pan -f.
 *
 * One assumption, stated in docs/h2o.md: a HELLO that was never answered does not arrive after one of a later migration.
 */
#define TRIES 2
#define SOURCE TRIES /* the source's place on the wire; destination k has the place k */
#define ELSEWHERE (TRIES + 1)

mtype = { undecided, commit, abort };
mtype decision[TRIES] = undecided; /* one durable file at the source for each try */

byte try = 0;              /* the one under way */
bool source_runs = true;
bool frozen[TRIES];        /* the source's copy is frozen and dumped, and CRIU's hook waits for the decision */
byte epoch_used = 0;       /* of sealed messages; the registry has it */
bool announced[TRIES];     /* every label of the try was answered as armed, or */
bool unasked[TRIES];       /* the peer has agreed to the flows in the background, and is told nothing before the MOVE */

bool restored[TRIES];      /* a copy exists there and does not run */
bool runs[TRIES];

bool orchestrated = true;

/* Datagrams that have been sent. A MOVE's and a BYE's epoch are written down before they are. */
bool asked, receipt; /* by whoever reads what is sent to the source's address */
bool hello[TRIES], welcome[TRIES], move[TRIES], ack_of_move[TRIES], bye[TRIES], ack_of_bye[TRIES];
bool query[TRIES], verdict[TRIES];
byte epoch[TRIES];

/* The peer: all of it is written down before it answers. */
byte sends_to = SOURCE;      /* where it sends to */
byte armed = SOURCE;       /* what else it understands; the same as `sends_to`: nothing */
byte accepted = 0;         /* the highest epoch */
bool is_first_pair = true; /* a MOVE replaces the keys: nothing of the first pair opens any more */
bool seen[TRIES];          /* transactions that it knows, also of labels that a BYE took back */

active proctype orchestrator()
{
  /* Led on for as long as it likes. */
  orchestrated = false
}

inline decide(k, wish)
{
#ifdef NO_DECISION_FILE
  decision[k] = wish /* whoever comes last has decided */
#else
  atomic {
    if
    :: decision[k] == undecided -> decision[k] = wish
    :: else
    fi
  }
#endif
}

/* CRIU's hook at the source: it obeys, and at its deadline decides itself. It runs without the agent as well. */
proctype source_hook(byte k)
{
  if
  :: decision[k] != undecided
  :: decide(k, abort)
  fi;
  atomic {
    if
    :: decision[k] == abort ->
       assert(!runs[0] && !runs[1]); /* one owner */
       source_runs = true
    :: decision[k] == commit /* CRIU ends its copy */
    fi;
    frozen[k] = false
  }
}

active proctype source()
{
  asked = true;
  receipt; /* shown in each HELLO: those without are not looked at */
  do
  :: try == TRIES -> break
  :: try < TRIES ->
     if
     :: atomic { unasked[try] = true; announced[try] = true }
     :: hello[try] = true;
        if
        :: welcome[try] -> announced[try] = true
#ifdef UNANNOUNCED
        :: announced[try] = true /* goes on without having heard of every label */
#endif
        :: decide(try, abort)    /* no answer in time, or given up */
        fi
     fi;
     if
     :: announced[try] && decision[try] == undecided ->
        atomic { source_runs = false; frozen[try] = true; epoch[try] = epoch_used + 1; run source_hook(try) };
        if
        :: orchestrated && restored[try] -> decide(try, commit)
        :: decide(try, abort)
        fi;
        !frozen[try] /* the hook has obeyed */
     :: else
     fi;
     if
     :: decision[try] == commit -> break
     :: else
     fi;
     epoch_used++;
     if
     :: unasked[try] /* nothing to take back; its epoch is spent */
     :: else ->
        epoch[try] = epoch_used;
        bye[try] = true;
#ifndef BYE_UNANSWERED
        /* Nothing is announced anew to a peer that has not acknowledged the end of what was announced before. */
        if
        :: ack_of_bye[try]
        :: break /* refused: the peer is silent */
        fi
#endif
     fi;
     try++
  od
}

/* The source's agent answers who asks; on a try that nobody is at work on any more, with an abort. */
active [TRIES] proctype answers()
{
  byte k = _pid % TRIES;
  query[k];
  if
  :: decision[k] != undecided
  :: try > k -> decide(k, abort)
  fi;
  verdict[k] = true
}

proctype destination(byte k)
{
  if
  :: orchestrated && frozen[k] -> restored[k] = true
  :: decision[k] == abort -> goto undone
  fi;
#ifndef RESUMED_EARLY
  if
  :: orchestrated && decision[k] != undecided /* it is told so */
#ifndef NEVER_ASKS
  :: query[k] = true; verdict[k]              /* it asks, until it knows */
#endif
  fi;
  if
  :: decision[k] == abort -> goto undone
  :: else
  fi;
#endif
  move[k] = true; /* written down before; sent again until it is acknowledged */
  if
  :: ack_of_move[k]
#ifndef UNASKED_EARLY
  :: !unasked[k]  /* the head start is over */
#else
  :: skip         /* also where the peer knows nothing of it yet */
#endif
  fi;
  atomic {
    assert(!source_runs && !runs[1 - k]); /* one owner */
    runs[k] = true
  };
  ack_of_move[k];
undone:
  restored[k] = false
}

/* Delivery: each datagram by itself, again and again. */

active proctype deliver_receipt()
{
  asked -> receipt = true
}

/* Another host, with keys of its own, claims the flow with the source's address on its datagrams: it has no receipt. */
active proctype stranger()
{
#ifdef NO_RECEIPT
  do
  :: atomic { is_first_pair -> armed = ELSEWHERE }
  od
#else
  skip
#endif
}

proctype deliver_hello(byte k)
{
  do
  :: atomic {
       hello[k] && is_first_pair && (seen[k] || try == k) ->
       if
#ifndef REPEATED_HELLO
       :: seen[k] && ((k == 0 && seen[1]) || armed != k) -> skip /* known, and replaced or taken back: arms nothing */
       :: else ->
#else
       :: true ->
#endif
#ifndef UNARMED
          armed = k;
#endif
          seen[k] = true; welcome[k] = true
       fi
     }
  od
}

proctype deliver_bye(byte k)
{
  do
  :: atomic {
       bye[k] && is_first_pair && epoch[k] >= accepted ->
       if
       :: epoch[k] > accepted -> accepted = epoch[k]; armed = sends_to
       :: else /* the very datagram that was accepted last */
       fi;
       ack_of_bye[k] = true
     }
  od
}

proctype deliver_move(byte k)
{
  do
  :: atomic {
       move[k] && (ack_of_move[k] || (is_first_pair && epoch[k] > accepted)) ->
       if
       :: !ack_of_move[k] ->
          accepted = epoch[k];
          is_first_pair = false;
          if
          :: armed != sends_to || unasked[k] -> sends_to = k; armed = k /* what is listed counts, armed so, otherwise or not */
          :: else                                     /* no flow is known any more: nothing to flip */
          fi
       :: else
       fi;
       ack_of_move[k] = true
     }
  od
}

/* A packet of the copy that runs reaches the peer: one that its address is not understood of draws a reset. */
active proctype packets()
{
  do
  :: atomic { source_runs -> assert(sends_to == SOURCE || armed == SOURCE) }
  :: atomic { runs[0] -> assert(sends_to == 0 || armed == 0) }
  :: atomic { runs[1] -> assert(sends_to == 1 || armed == 1) }
  od
}

init
{
  byte k = 0;
  atomic {
    do
    :: k < TRIES ->
       run destination(k); run deliver_hello(k); run deliver_bye(k); run deliver_move(k);
       k++
    :: else -> break
    od
  }
}

#define at_source (source_runs && sends_to == SOURCE)
#define at_0 (runs[0] && sends_to == 0)
#define at_1 (runs[1] && sends_to == 1)
ltl progress { <>[] (at_source || at_0 || at_1) }
