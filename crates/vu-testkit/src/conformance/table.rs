// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The table. A row is `Kind name;`, and its name is that of a function in the module of its group.

/// Hands the table to another macro of this crate, after some arguments.
#[doc(hidden)]
#[macro_export]
macro_rules! conformance_table {
    ([$($then:tt)*] $args:tt) => {
        $($then)* ! { $args
            features {
                Spec version_1_is_offered;
                Spec features_are_the_same_when_asked_again;
                Spec works_without_protocol_features;
                Spec works_without_any_optional_protocol_feature;
                Spec works_without_any_optional_ring_feature;
                Spec need_reply_changes_nothing_where_a_reply_is_owed;
                Spec queue_num_is_at_least_what_a_driver_uses;
                Robust features_it_cannot_honour_are_refused_without_hanging_up;
                House bits_that_qemu_forces_are_accepted;
                House protocol_features_are_offered;
                House event_idx_is_offered;
                House indirect_descriptors_are_offered;
                House nothing_is_offered_that_is_not_implemented;
                House protocol_features_of_the_house_are_offered;
            }
            config {
                Spec every_part_reads_like_the_whole;
                Spec a_change_is_announced;
                Robust reads_out_of_any_range_are_answered_or_refused;
                Robust a_refused_write_does_not_hang_up;
                House beyond_the_end_reads_zero;
            }
            interrupts {
                Spec none_is_lost_with_event_idx;
                Spec none_is_lost_without_event_idx;
                Spec used_event_far_ahead_gives_silence;
                Spec used_event_reached_gives_an_interrupt;
                Spec no_interrupt_flag_gives_silence;
                Spec no_interrupt_flag_is_ignored_with_event_idx;
                Spec a_replaced_call_descriptor_is_used;
                Spec kicks_at_the_end_of_a_batch_are_heard_with_event_idx;
                Spec kicks_at_the_end_of_a_batch_are_heard_without_event_idx;
                Spec kick_replaced_on_a_live_ring_is_heard;
                Spec spurious_kicks_do_no_harm;
                Robust kicks_that_vanish_before_they_are_read_do_no_harm;
                Robust none_is_lost_when_the_call_is_a_socket;
                House a_new_call_descriptor_is_signalled_at_once;
            }
            rings {
                Spec size_2;
                Spec size_4;
                Spec size_64;
                Spec size_256;
                Spec size_1024;
                Spec framing_does_not_matter;
                Spec framing_does_not_matter_in_indirect_tables;
                Spec a_chain_may_end_in_an_indirect_table;
                Spec write_flag_on_an_indirect_descriptor_is_ignored;
                Spec an_indirect_table_may_stand_at_any_address;
                Spec indices_wrap;
                Spec a_ring_may_start_at_any_index;
                Spec a_full_ring_is_served;
                Spec nothing_is_written_beside_a_buffer;
                Spec ring_parts_may_lie_in_different_regions;
                Robust size_1_is_served_or_refused;
                Robust sizes_that_do_not_exist_are_refused_without_hanging_up;
                House size_32768;
            }
            lifecycle {
                Spec stopping_drains_and_restarting_continues;
                Spec a_kick_before_enabling_is_not_lost;
                Spec disabling_and_enabling_loses_nothing;
                Spec addresses_sent_again_under_load_lose_nothing;
                Spec a_ring_may_move;
                Spec reset_device_gives_a_fresh_device;
                Spec reset_owner_keeps_the_connection;
                Robust features_sent_again_under_load_lose_nothing;
                Robust nothing_is_served_after_hanging_up;
                Robust hanging_up_with_requests_in_flight_is_harmless;
                Robust reconnecting_20_times_works;
                Robust a_guest_may_come_back_with_its_rings;
                Robust a_second_connection_waits_its_turn;
                House stopping_with_requests_in_flight_is_prompt;
                House enabling_serves_what_waits_without_a_kick;
                House a_first_message_that_does_not_negotiate_ends_the_connection;
            }
            parked {
                Spec buffers_stay_until_they_are_released;
                Spec a_stopped_queue_gives_its_buffers_back;
                Spec a_reset_device_forgets_them;
                Spec a_killed_daemon_loses_and_repeats_none;
                Robust hanging_up_with_parked_buffers_is_harmless;
            }
            regions {
                Spec buffers_may_straddle_adjacent_regions;
                Spec slots_are_at_least_8;
                Spec regions_added_one_by_one_are_used;
                Spec a_table_of_8_regions_is_used;
                Spec slots_change_under_load;
                Spec table_changes_under_load;
                Spec removed_memory_is_not_touched;
                Robust a_table_of_32_regions_is_used_or_refused;
                Robust memory_in_use_may_be_removed;
                Robust senseless_regions_are_refused_without_hanging_up;
            }
            inflight {
                Spec the_region_has_the_layout_of_the_specification;
                Spec heads_are_marked_while_they_are_served;
                Spec requests_in_flight_are_resubmitted_in_order;
                Spec the_last_batch_is_not_resubmitted;
                Spec a_killed_daemon_loses_and_repeats_nothing;
                Spec a_killed_slow_daemon_resumes_what_it_held;
                Robust a_senseless_region_does_no_harm;
            }
            queues {
                Spec all_are_served_at_once;
                Spec stopping_one_does_not_disturb_another;
                Spec a_broken_one_does_not_disturb_another;
                Spec a_killed_daemon_loses_and_repeats_nothing_on_any;
            }
            migration {
                Spec each_written_page_is_marked;
                Spec each_page_of_the_used_ring_is_marked;
                Spec logging_ends_when_it_is_switched_off;
                Spec memory_added_while_logging_is_logged;
                Spec the_state_survives_a_move;
                Robust a_log_that_is_too_small_does_no_harm;
                Robust a_senseless_state_is_refused;
            }
            chains {
                Spec next_without_its_flag_is_ignored;
                Robust loop_of_one;
                Robust loop_of_two;
                Robust loop_that_starts_late;
                Robust next_at_the_ring_size;
                Robust next_far_outside;
                Robust zero_length_alone;
                Robust zero_length_among_others;
                Robust zero_length_and_unmapped;
                Robust unmapped_address;
                Robust unmapped_readable_address;
                Robust unmapped_second_part;
                Robust address_wraps;
                Robust address_at_the_top;
                Robust length_of_4_gib;
                Robust end_beyond_the_region;
                Robust end_in_the_hole_behind_adjacent_regions;
                Robust start_in_the_hole;
                Robust readable_after_writable;
                Robust readable_between_writable;
                Robust nothing_writable;
                Robust unknown_flags;
                Robust chain_as_long_as_the_ring;
                Robust buffer_over_its_own_ring;
                Robust many_bad_among_good;
                Robust descriptors_change_while_they_are_read;
                Robust indirect_that_was_not_negotiated;
            }
            indirect {
                Robust table_unmapped;
                Robust table_partly_unmapped;
                Robust table_of_length_0;
                Robust table_of_length_15;
                Robust table_of_length_17;
                Robust table_of_4_gib;
                Robust table_within_a_table;
                Robust table_that_refers_to_itself;
                Robust table_with_a_next;
                Robust loop_of_one;
                Robust loop_of_two;
                Robust next_outside_the_table;
                Robust readable_after_writable;
                Robust readable_table_after_writable;
                Robust unmapped_buffer;
                Robust chain_longer_than_the_ring;
                Robust amplification_by_a_loop;
                Robust amplification_by_a_long_table;
                Robust more_than_4_gib_in_total;
            }
            virtqueues {
                Robust available_index_jumps_just_beyond_the_ring;
                Robust available_index_jumps_far;
                Robust available_index_goes_back;
                Robust head_at_the_ring_size;
                Robust head_far_outside;
                Robust one_head_many_times;
                House ring_at_addresses_that_are_not_mapped;
                House ring_that_is_not_aligned;
                House ring_whose_end_is_not_mapped;
                Robust ring_parts_that_overlap;
                Robust size_and_index_change_on_a_live_ring;
                Robust queues_that_do_not_exist;
                Robust ring_started_before_it_is_known;
                Robust ring_whose_memory_is_removed;
                Robust broken_ring_without_an_error_descriptor;
            }
            memory {
                Robust file_of_the_buffers_is_truncated;
                Robust file_of_the_rings_is_truncated;
                Robust table_with_senseless_regions;
                Robust slot_with_a_senseless_region;
                Robust table_whose_count_and_descriptors_disagree;
                Robust regions_of_files_that_cannot_be_mapped;
            }
            messages {
                Robust unknown_ids;
                Robust odd_header_flags;
                Robust every_id_with_every_odd_size;
                Robust every_id_as_first_message;
                Robust sizes_that_lie;
                Robust config_lengths_that_lie;
                Robust random_bytes;
                Robust descriptors_on_every_message_do_not_leak;
                Robust floods_do_not_leak;
                Robust answers_that_nobody_reads;
            }
            sockets {
                Robust half_a_message_then_nothing;
                Robust half_a_message_does_not_hold_up_sigterm;
                Robust two_hundred_connections_at_once;
                Robust connections_that_close_at_once;
                Robust hanging_up_before_the_reply;
            }
            limits {
                Robust a_thousand_connections_leave_nothing_behind;
                Robust running_guests_leave_nothing_behind;
                Robust bad_requests_do_not_flood_the_log;
                Robust idle_costs_nothing;
                Robust threads_do_not_grow_with_requests;
            }
            manners {
                Spec capabilities_are_printed_as_json;
                Spec sigterm_ends_an_idle_daemon_and_removes_its_socket;
                Spec sigterm_ends_a_daemon_with_a_guest;
                Spec sigterm_ends_a_daemon_under_load;
                Spec fd_takes_a_listening_socket;
                House fd_takes_a_connected_socket_and_ends_with_it;
                House socket_activation_works;
                House a_stale_socket_is_replaced;
                House a_live_listener_is_not_robbed;
                House a_path_that_cannot_be_bound_is_an_error_that_names_it;
                House only_the_owner_may_connect;
                House a_line_tells_that_it_is_ready;
                House the_pid_file_holds_the_pid;
                House readiness_is_notified;
                House a_descriptor_tells_that_it_is_ready;
                House the_watchdog_is_fed_and_told_who_is_there;
                House an_unknown_option_is_an_error;
                House its_papers_pass_their_tools;
                House the_control_socket_takes_any_nonsense;
            }
            confinement {
                House every_thread_is_without_privileges_and_filtered;
                House nothing_of_the_host_is_within_reach;
            }
        }
    };
}
pub(super) use conformance_table;
