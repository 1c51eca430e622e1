/* One run of runstream, for spin: two writers append and resend, drain workers archive and trim, and a replica is
 * promoted that lacks a suffix of what the primary acknowledged. docs/protocol.md says what each part stands for
 * in the code, what is left out, and which promises the assertions P2, P4, P8 and P9 are; and it lists the macros
 * that take a check, or an assumption, out of the protocol: with any of them pan must find an error.
 *
 *   spin -a -DEVENTS=3 -DFAULTS=1 -DWORKERS=1 protocol.pml && cc -O2 -DSAFETY -o pan pan.c && ./pan -m100000
 *
 * A cursor is a number in base 5 whose digits are the events of the history that ends there, the last one lowest;
 * 0 is the start. So two cursors are equal if all before them is, as with the chain. A run's last cursor says all
 * that the run has ever had, `trimmed` how much of that is gone; what is gone, only assertions look at.
 */
#define LEN(c) (((c) >= 1) + ((c) >= 5) + ((c) >= 25) + ((c) >= 125) + ((c) >= 625)) /* the offset of a cursor */
#define POW(n) ((n) <= 0 -> 1 : ((n) == 1 -> 5 : ((n) == 2 -> 25 : ((n) == 3 -> 125 : 625))))
#define AT(c, n) ((c) / POW(LEN(c) - (n)))              /* the cursor at offset n of the history that ends at c */
#define EVENT(c) ((c) % 5)                              /* the event at a cursor */
#define HAS(c, e) (EVENT(c) == (e) || EVENT((c) / 5) == (e) || EVENT((c) / 25) == (e) || EVENT((c) / 125) == (e))
#define BIT(e) (1 << (e))
#define FIRST_OF(w) (2 * (w) + 1)                       /* writer 0 has the events 1 and 2, writer 1 3 and 4 */
#define IS_LEFT(w, e) ((e) <= 2 * (w) + 2 && (e) <= EVENTS)
#ifdef SHARED_LANE
#define IN_LANE(w, e) ((e) > 0)
#else
#define IN_LANE(w, e) ((e) > 0 && ((e) - 1) / 2 == (w)) /* each writer has a lane */
#endif
#define LANE_END(w, c) (IN_LANE(w, EVENT(c)) -> LEN(c) : (IN_LANE(w, EVENT((c) / 5)) -> LEN(c) - 1 : \
  (IN_LANE(w, EVENT((c) / 25)) -> LEN(c) - 2 : (IN_LANE(w, EVENT((c) / 125)) -> LEN(c) - 3 : 0))))

mtype = { OK, LOST, STALE };            /* replies of append; LOST is 'lost' and 'diverged' */
typedef Server {
  short last;                           /* meta `last`: the cursor of the last event */
  short mark;                           /* meta `mark`: the cursor up to which the run is proven to be archived */
  byte trimmed;                         /* the offset before the first entry of the stream */
  byte number[2];                       /* producers: the number of each writer's last batch; 0: not known */
  short reply[2];                       /* producers: the reply to it */
  byte forgot[2]                        /* meta `forgotten`: up to which number a producer was forgotten */
};
Server srv[2];                          /* the primary, and the replica that is promoted; */
bool promoted;                          /* then clients turn to it one by one; others still use the old one */
short row[5];                           /* the archive: the cursor of each row */
byte rows;
byte damaged;                           /* the row that does not hold what was written; 0: none */
byte faults;                            /* replies lost, batches delayed, producers forgotten, rows damaged */
bool delayed;                           /* a batch of writer 0 is on its way, and nobody waits for its reply */
byte late_to, late_number, late_event;
short late_seen;
byte acked, told;                       /* sets of events: acknowledged; lost, and the writer was told */

#define POSITION (rows > 0 -> row[rows - 1] : 0)
#define KEPT(e, s) (!(acked & BIT(e)) || (told & BIT(e)) || HAS(srv[s].last, e))
#define ALL_KEPT(w, s) (KEPT(FIRST_OF(w), s) && KEPT(FIRST_OF(w) + 1, s))
#define TELL(e, s) told = told | ((acked & BIT(e)) && !HAS(srv[s].last, e) -> BIT(e) : 0)
#define TELL_ALL(w, s) TELL(FIRST_OF(w), s); TELL(FIRST_OF(w) + 1, s)

/* Whether a history passes `seen`, the cursor that a writer saw last: here that of its own last event. */
inline check_seen(s, w, seen, out) {
  if
  :: seen == 0 || seen == srv[s].last -> out = OK
  :: else ->
    if
    :: LEN(seen) > LEN(srv[s].last) -> out = LOST
    :: LEN(seen) <= LEN(srv[s].last) && LEN(seen) > srv[s].trimmed ->
      out = (AT(srv[s].last, LEN(seen)) == seen -> OK : LOST)
    :: LEN(seen) <= srv[s].trimmed && LEN(seen) == LEN(srv[s].mark) -> out = (srv[s].mark == seen -> OK : LOST)
    :: LEN(seen) <= srv[s].trimmed && LEN(seen) < LEN(srv[s].mark) -> /* only the writer's lane can tell */
      out = (LANE_END(w, srv[s].last) >= LEN(seen) -> OK : LOST)
    fi
  fi;
#ifdef NO_SEEN_CHECK
  out = OK
#endif
}

/* append.lua, for a batch of one event. */
inline append(s, w, n, event, seen, out, got) {
  if
  :: srv[s].number[w] == n -> out = OK; got = srv[s].reply[w]
#ifndef NO_STALE_CHECK
  :: srv[s].number[w] > n -> out = STALE
#endif
  :: srv[s].number[w] == 0 && n <= srv[s].forgot[w] -> out = STALE
  :: else ->
    check_seen(s, w, seen, out);
    if
    :: out == OK ->
      assert(!HAS(srv[s].last, event)); /* P2: applied once */
      srv[s].last = srv[s].last * 5 + event; srv[s].number[w] = n; srv[s].reply[w] = srv[s].last; got = srv[s].last
    :: else
    fi
  fi
}

proctype writer(byte w) {
  byte on, number, event = FIRST_OF(w); /* its server, the number of its last batch, the event that is next */
  short seen, got;                      /* the cursor that it saw last, the reply */
  mtype out;
  do
  :: atomic {
       IS_LEFT(w, event) -> number++;
send:  if :: promoted && on == 0 -> on = 1 :: true fi;
       if
       :: w == 0 && faults < FAULTS -> faults++; delayed = true;
         late_to = on; late_number = number; late_event = event; late_seen = seen; goto resend
       :: true
       fi;
       d_step { append(on, w, number, event, seen, out, got) };
       if
       :: faults < FAULTS -> faults++; goto resend /* the reply is lost */
       :: promoted && on == 0 -> goto resend       /* with the old primary */
       :: out == OK -> d_step {
            assert(EVENT(got) == event);           /* P2: a resend gets the first reply */
            assert(ALL_KEPT(w, on));               /* P4: nothing of its own is lost and not told */
            acked = acked | BIT(event); told = told & ~BIT(event); seen = got; event++
          }
       :: out == STALE -> event++                  /* TooOld: the writer is told that nobody knows */
       :: out == LOST ->                           /* AcknowledgedWritesLost: the writer takes the run as it is, */
         d_step { TELL_ALL(w, on); seen = 0 };
         if
         :: true                                   /* and goes on, */
         :: event > FIRST_OF(w) && (told & BIT(FIRST_OF(w))) -> event = FIRST_OF(w) /* or resends it */
         fi
       fi;
       out = 0; got = 0
     }
  :: atomic { !IS_LEFT(w, event) -> goto end }
  od;
resend:
  atomic {
    out = 0; got = 0;
#ifdef NEW_NUMBER
    number++;
#endif
    goto send
  };
end:
  promoted;                                        /* it comes back after the failover */
  d_step {
    check_seen(1, w, seen, out);
    if :: out == LOST -> TELL_ALL(w, 1) :: else fi;
    assert(ALL_KEPT(w, 1))                         /* P4: likewise */
  }
}

/* The delayed batch comes late; nobody waits for its reply. */
active proctype network() {
  mtype out; short got;
end:
  delayed;
  d_step {
    append(late_to, 0, late_number, late_event, late_seen, out, got);
    late_to = 0; late_number = 0; late_event = 0; late_seen = 0; out = 0; got = 0
  }
}

/* A producer that was silent for its window is forgotten as others come: that of writer 0. */
active proctype forgetting() {
  byte s;
end:
  atomic {
    if :: faults < FAULTS && srv[0].number[0] > 0 :: faults < FAULTS && srv[1].number[0] > 0 -> s = 1 fi;
    faults++;
#ifndef FORGETS_SILENTLY
    srv[s].forgot[0] = srv[s].number[0];
#endif
    srv[s].number[0] = 0; srv[s].reply[0] = 0; s = 0
  }
}

/* Replication is asynchronous: what is promoted stands where the primary stood at some time before. */
active proctype failover() {
  d_step {
    srv[1].last = srv[0].last; srv[1].mark = srv[0].mark; srv[1].trimmed = srv[0].trimmed;
    srv[1].number[0] = srv[0].number[0]; srv[1].reply[0] = srv[0].reply[0]; srv[1].forgot[0] = srv[0].forgot[0];
    srv[1].number[1] = srv[0].number[1]; srv[1].reply[1] = srv[0].reply[1]; srv[1].forgot[1] = srv[0].forgot[1]
  };
  promoted = true
}

/* Claims are no rights: workers may have the same run in hand. Each may pause anywhere, and need not go on. */
proctype worker() {
  byte on, k, limit; bit is_new;
  short after, upto, theirs;            /* its batch is what comes after `after`, up to `upto` */
end:
  do
  :: atomic {                           /* Sink.position; what Redis has, from the mark on */
       if :: srv[0].last != srv[0].mark :: promoted && srv[1].last != srv[1].mark -> on = 1 fi;
       after = POSITION; upto = srv[on].last;
       if :: LEN(after) >= LEN(upto) && after != upto -> upto = 0 :: else fi; /* HistoryDiverged */
#ifndef FROM_POSITION
       if :: srv[on].mark < after -> after = srv[on].mark :: else fi;
#endif
       if
       :: upto == 0 || srv[on].trimmed > LEN(after) || AT(upto, LEN(after)) != after ->
         upto = 0; after = 0; on = 0; goto end /* ArchiveGap, HistoryDiverged */
       :: else -> on = 0
       fi
     };
     atomic {                           /* Sink.write, one transaction; Sink.read_back */
       d_step {
#ifdef NO_POSITION_CHECK
         theirs = after;
#else
         theirs = POSITION;
#endif
         k = LEN(theirs);
         if :: k > LEN(upto) -> k = LEN(upto); theirs = row[k - 1] :: else fi; /* another worker was here */
         if
         :: k < LEN(after) || AT(upto, k) != theirs -> upto = 0 /* ArchiveGap, HistoryDiverged */
         :: else -> do :: k < LEN(upto) -> k++; row[rows] = AT(upto, k); rows++; is_new = 1 :: else -> break od
         fi;
         theirs = 0; k = 0;
         do                    /* P8: one history without a hole, each event once */
         :: k < rows -> assert(LEN(row[k]) == k + 1 && row[k] / 5 == (k > 0 -> row[k - 1] : 0)); /* P8: no hole */
           assert(!HAS(row[k] / 5, EVENT(row[k]))); k++                          /* P8: each event once */
         :: else -> k = 0; break
         od
       };
       if :: is_new && faults < FAULTS -> faults++; damaged = rows :: true fi;
#ifndef NO_READ_BACK
       if :: LEN(after) < damaged && damaged <= LEN(upto) -> upto = 0 :: else fi;
#endif
       is_new = 0; after = 0;
       if :: upto == 0 -> goto end :: else fi
     };
     atomic {                           /* settle.lua, trim='archived'; perhaps on the other server */
       if :: true :: promoted -> on = 1 fi;
       d_step {
         limit = LEN(upto);
         if
#ifdef SETTLE_BY_OFFSET
         :: limit > LEN(srv[on].last) -> limit = 0
#else
         :: upto != srv[on].mark && upto != srv[on].last && limit > srv[on].trimmed ->
           if :: AT(srv[on].last, limit) != upto -> limit = 0 :: else fi /* 'diverged' or 'gone' */
#endif
         :: else
         fi;
         do
         :: srv[on].trimmed < limit -> srv[on].trimmed++;
           assert(srv[on].trimmed <= rows && srv[on].trimmed != damaged);        /* P9: what leaves Redis, */
           assert(row[srv[on].trimmed - 1] == AT(srv[on].last, srv[on].trimmed)) /* P9: the archive has */
         :: else -> break
         od;
         if :: limit > LEN(srv[on].mark) -> srv[on].mark = upto :: else fi;
         upto = 0; limit = 0; on = 0
       }
     }
  od
}

init { atomic { run writer(0); run writer(1); run worker(); if :: WORKERS > 1 -> run worker() :: else fi } }
